"""A run accepted by its row, on any connection to our tables; published after that, within a second or by a relay.

The statements are Core's, so that they run through whichever driver the connection has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_or_not

from beatline.clock import monotonic_s, utc_now
from beatline.engine.delay import moment_of, waits
from beatline.engine.hurry import hurried
from beatline.engine.messages import StoredMessage, accepted_event
from beatline.engine.publish import publish_stored
from beatline.errors import ConflictError
from beatline.failpoints import reach
from beatline.ledger.apply import message_binding
from beatline.ledger.events import SHOWN_CHARS, storable
from beatline.ledger.model import SCHEMA, run_days, runs
from beatline.ledger.relay import CHANNEL
from beatline.ledger.states import EventKind, RunState, progress
from beatline.ledger.store import NewRun
from beatline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beatline.installation import Installation

PUBLISH_S: Final = 1.0
"""So long a caller whose run is accepted waits for Redis: a relay publishes it as well."""
AWAY_S: Final = 5.0
"""So long nobody is kept waiting again by a Redis that did not answer."""
PAGE: Final = 500

_away_until: dict[str, float] = {}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A run that was accepted, and how it stood then: *queued*, *delayed*, or *accepted* and published soon.

    In a transaction of the caller's that holds once it is committed. `new` is False where the idempotency key stood
    already: then it is the run that was accepted with it.
    """

    run_id: str
    state: RunState
    new: bool = True


def run_of(message: StoredMessage, *, idempotency_key: str | None = None) -> NewRun:
    """The row that accepts the run of a message."""
    event = accepted_event(json.loads(message.payload), message.queue, message.payload)
    return NewRun(
        run_id=message.run_id,
        day=date.fromisoformat(message.day),
        task=message.task,
        queue=message.queue,
        message=message.payload,
        accepted_at=utc_now(),
        priority=message.priority,
        schedule=event.schedule,
        slot=_moment(event.slot),
        root_id=event.root_id,
        parent_id=event.parent_id,
        args_shown=event.args_shown,
        kwargs_shown=event.kwargs_shown,
        eta=_moment(event.eta),
        expires=_moment(event.expires),
        idempotency_key=idempotency_key,
    )


def accept(conn: Connection, installation: Installation, run: NewRun) -> Submitted:
    """Write a run's row, in the transaction of `conn`, and have the relays notified when that is committed.

    Raises ConflictError, with nothing written, if a run of that id stands already, or one of another task with that
    idempotency key.
    """
    schema = installation.settings.database_schema
    ours: Any = {"schema_translate_map": {SCHEMA: schema}}
    named = insert_or_not(run_days).values(id=run.run_id, day=run.day, idempotency_key=run.idempotency_key)
    if conn.execute(named.on_conflict_do_nothing().returning(run_days.c.id), execution_options=ours).first() is None:
        return _standing(conn, run, ours)
    state = RunState.DELAYED if waits(run.eta, run.accepted_at) else RunState.ACCEPTED
    sealed = installation.keyring.encrypt(run.message.encode(), bound_to=message_binding(run.run_id))
    conn.execute(insert(runs).values(**_row(run, state, sealed)), execution_options=ours)
    conn.execute(select(func.pg_notify(CHANNEL, schema)))
    return Submitted(run.run_id, state)


def publish_soon(installation: Installation, messages: Sequence[StoredMessage]) -> bool:
    """Publish runs whose rows are committed, and say whether that is done; a relay does it if Redis does not answer.

    Takes PUBLISH_S at the longest, and no time at all while Redis has just been seen not to answer.
    """
    reach("submit.committed")
    if not may_publish(installation):
        return False
    try:
        with hurried(PUBLISH_S):
            for start in range(0, len(messages), PAGE):
                publish_stored(installation, messages[start : start + PAGE])
    except RedisError as exc:
        left_to_relay(installation, messages[0].run_id, exc)
        return False
    return True


def may_publish(installation: Installation) -> bool:
    """Whether Redis answered when it was last tried, or that is AWAY_S ago."""
    return monotonic_s() >= _away_until.get(installation.settings.redis_url, float("-inf"))


def left_to_relay(installation: Installation, run_id: str, exc: Exception) -> None:
    """Say that a run which stands is not published yet, and let nobody wait for this Redis for a while."""
    _away_until[installation.settings.redis_url] = monotonic_s() + AWAY_S
    log.warning("run stands but is not queued yet; a recorder queues it", run_id=run_id, error=type(exc).__name__)


def _standing(conn: Connection, run: NewRun, ours: Any) -> Submitted:
    """The run that was accepted with the idempotency key before."""
    found = None
    if run.idempotency_key is not None:
        wanted = (
            select(runs.c.id, runs.c.state, runs.c.task)
            .join(run_days, (run_days.c.id == runs.c.id) & (run_days.c.day == runs.c.day))
            .where(run_days.c.idempotency_key == run.idempotency_key)
        )
        found = conn.execute(wanted, execution_options=ours).first()
    if found is None:
        raise ConflictError(
            f"A run {run.run_id!r} was accepted before: nothing was. Leave run_id out, or ask for the old run once more "
            "with `beatline runs retry`. To send something once however often it is sent, give an idempotency_key."
        )
    if found.task != run.task:
        raise ConflictError(
            f"The idempotency key {str(run.idempotency_key)[:80]!r} belongs to run {found.id} of the task {found.task!r}: "
            f"{run.task!r} was not accepted. Use a key for one thing only."
        )
    return Submitted(found.id, RunState(found.state), new=False)


def _row(run: NewRun, state: RunState, sealed: bytes) -> dict[str, Any]:
    return {
        "day": run.day,
        "id": run.run_id,
        "task": run.task,
        "queue": run.queue,
        "state": state.value,
        "progress": progress(EventKind.ACCEPTED, 1),
        "attempt": 1,
        "changed_at": run.accepted_at,
        "priority": run.priority,
        "schedule": run.schedule,
        "slot": run.slot,
        "root_id": run.root_id,
        "parent_id": run.parent_id,
        "args_shown": _shown(run.args_shown),
        "kwargs_shown": _shown(run.kwargs_shown),
        "message": sealed,
        "message_attempt": 1,
        "accepted_at": run.accepted_at,
        "eta": run.eta,
        "expires": run.expires,
    }


def _shown(text: str | None) -> str | None:
    return None if text is None else storable(text, SHOWN_CHARS)


def _moment(said: str | None) -> datetime | None:
    return None if said is None else moment_of(said).astimezone(UTC)
