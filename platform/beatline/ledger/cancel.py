"""Cancel a run, whatever it is at: the intention first, in PostgreSQL, then Redis, whose word decides who ends the run.

What no worker holds ends at once, in PostgreSQL and in Redis, under the lock of its row: whoever would publish it skips a
row that is locked, and a message that lies in a queue is dropped where a worker claims it. What a worker holds gets the
order written on its record, and is ended by that worker, or by the reconciler if that worker is lost.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from redis.exceptions import RedisError
from sqlalchemy import Connection, insert

from beatline.clock import monotonic_s, utc_now
from beatline.engine.claim import Claims
from beatline.engine.hurry import hurried
from beatline.engine.obituary import Obituary
from beatline.engine.orders import CANCEL, Order
from beatline.errors import ConflictError, NotFoundError, SecretError
from beatline.ledger.apply import apply, message_binding
from beatline.ledger.database import sql
from beatline.ledger.events import SHOWN_CHARS, Event, storable
from beatline.ledger.history import Run, find_run
from beatline.ledger.intake import Entry, Known, read
from beatline.ledger.model import audit
from beatline.ledger.states import ENDED, EventKind, RunState
from beatline.logs import get_logger

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

DRAINED_WITHIN_S: Final = 3.0
"""How long history may be behind Redis, when it is asked how a run ended."""
UNDER_LOCK_S: Final = 1.0
"""So long Redis is waited for while the run's row is locked."""

How = Literal["ended", "told", "noted"]

_ROW: Final = """
    SELECT r.id, r.day, r.task, r.queue, r.state, r.attempt, r.message, c.at, c.who, c.hard
    FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id
    LEFT JOIN {schema}.cancellations c ON c.run_id = r.id WHERE d.id = :id FOR UPDATE OF r
"""
_ASKED: Final = """
    SELECT c.at, c.who, c.hard FROM {schema}.cancellations c JOIN {schema}.run_days d ON d.id = c.run_id
    JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id WHERE c.run_id = :id AND r.ended_at IS NULL
"""
_INTEND: Final = """
    INSERT INTO {schema}.cancellations (run_id, at, who, reason, hard) VALUES (:id, :at, :who, :reason, :hard)
    ON CONFLICT (run_id) DO UPDATE SET at = :at, who = :who, reason = :reason, hard = :hard
"""

log = get_logger(__name__)


class OverError(Exception):
    """The run has ended by itself."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A run that was cancelled. `how`: it has *ended*; its `worker` was *told*, which ends it; or the intention is *noted*,
    and a recorder carries it out once Redis answers."""

    run_id: str
    how: How
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A run as PostgreSQL knows it, its row locked."""

    run_id: str
    day: date
    task: str
    queue: str
    state: str
    attempt: int
    message: bytes | None

    @classmethod
    def of(cls, row: Any) -> Row:
        """Out of a row of a query."""
        message = None if row.message is None else bytes(row.message)
        return cls(row.id, row.day, row.task, row.queue, row.state, row.attempt, message)


def cancel_run(
    installation: Installation, given: str, *, who: str, app: Celery, reason: str | None = None, hard: bool = False
) -> Cancelled:
    """Cancel the run of this id, or whose id begins so: no attempt of it begins any more, whatever restarts meanwhile.

    `hard` gives the body of a run that has begun no time. `app` tells the worker that holds it. Raises NotFoundError;
    ConflictError for a run that has ended, which says how, and for one that is being cancelled already, unless that becomes
    hard now.
    """
    run_id = _known_id(installation, given)
    said = storable(f"cancelled by {who}{f': {reason}' if reason else ''}", SHOWN_CHARS)
    order = Order(said, hard)
    message: bytes | None = None
    try:
        with installation.engine.begin() as conn:
            row = conn.execute(sql(conn, _ROW), {"id": run_id}).one()
            if row.state in ENDED:
                raise OverError
            _refuse_twice(run_id, row, hard=hard)
            now = utc_now()
            conn.execute(sql(conn, _INTEND), {"id": run_id, "at": now, "who": who, "reason": said, "hard": hard})
            after = {"task": row.task, "state": row.state, "reason": reason, "hard": hard}
            conn.execute(insert(audit).values(at=now, who=who, action="cancel", kind="run", name=run_id, after=after))
            message = None if row.message is None else bytes(row.message)
            done = _marked(installation, conn, Row.of(row), order)
    except OverError:
        raise ConflictError(_how_it_ended(installation, given)) from None
    if done.how == "ended":
        tell_waiting(installation, run_id, message, said)
    elif done.how == "told":
        _broadcast(app, done, order)
    return done


def being_cancelled(conn: Connection, run_id: str) -> str | None:
    """What to say of a run that has not ended although it was cancelled; None: it was not, or has ended."""
    row = conn.execute(sql(conn, _ASKED), {"id": run_id}).one_or_none()
    if row is None:
        return None
    return f"It is being cancelled, since {_moment(row.at)}, by {row.who}.{_more(run_id, hard=row.hard)}"


def settle(
    installation: Installation,
    conn: Connection,
    claims: Claims,
    row: Row,
    order: Order,
    *,
    final: bool = False,
    unleased_only: bool = False,
) -> Cancelled:
    """End a run that no worker holds, or write the order on its record. In the transaction that has locked its row.

    A run that is said to run, and of which Redis knows nothing, ends only if that is `final`: every worker that lives has
    told what it holds. Raises OverError, and redis.RedisError: then nothing was changed, or Redis alone knows.
    """
    event = Event(
        kind=EventKind.CANCELLED,
        run_id=row.run_id,
        attempt=row.attempt,
        day=row.day.isoformat(),
        at=round(utc_now().timestamp(), 3),
        task=row.task,
        queue=row.queue,
        reason=order.reason,
    )
    running = row.state == RunState.RUNNING and not final
    how, what = claims.cancel(
        row.run_id, row.attempt, order.write(event), running=running, unleased_only=unleased_only
    )  # fmt: skip
    if how == "ended":
        raise OverError
    if how == "leased":
        return Cancelled(row.run_id, "told", what or None)
    known = read(Entry(f"cancel:{row.run_id}", replace(event, attempt=int(what)).to_json()))
    if isinstance(known, Known):
        apply(conn, [known], installation.keyring)
    return Cancelled(row.run_id, "ended")


def tell_waiting(installation: Installation, run_id: str, sealed: bytes | None, reason: str) -> None:
    """Tell who waits for a run that has ended so. What goes wrong is logged: the run is over in any case."""
    if sealed is None:
        return
    try:
        plain = installation.keyring.decrypt(sealed, bound_to=message_binding(run_id))
    except SecretError as exc:
        log.warning("cancelled_run_not_told", run_id=run_id, error=str(exc))
        return
    Obituary(installation).tell_cancelled(plain, reason)


def _known_id(installation: Installation, given: str) -> str:
    """The id of the run; one that was sent a moment ago may still be on its way into history."""
    give_up = monotonic_s() + DRAINED_WITHIN_S
    while True:
        try:
            with installation.engine.connect() as conn:
                return find_run(conn, given).id
        except NotFoundError:
            if monotonic_s() > give_up or not _events_wait(installation):
                raise
            threading.Event().wait(0.1)


def _events_wait(installation: Installation) -> bool:
    try:
        return bool(installation.redis.xlen(installation.keys.events))
    except RedisError:
        return False


def _marked(installation: Installation, conn: Connection, row: Row, order: Order) -> Cancelled:
    claims = Claims(installation.redis, installation.keys, installation.settings.lease_s)
    try:
        with hurried(UNDER_LOCK_S):
            return settle(installation, conn, claims, row, order)
    except RedisError as exc:
        log.warning("cancelling_waits_for_redis", run_id=row.run_id, error=str(exc))
        return Cancelled(row.run_id, "noted")


def _refuse_twice(run_id: str, row: Any, *, hard: bool) -> None:
    if row.at is None or (hard and not row.hard):
        return
    raise ConflictError(
        f"Run {run_id} is being cancelled already, since {_moment(row.at)}, by {row.who}.{_more(run_id, hard=row.hard)}"
    )


def _more(run_id: str, *, hard: bool) -> str:
    return "" if hard else f" `beatline runs cancel {run_id} --hard` gives its task no more time."


def _how_it_ended(installation: Installation, given: str) -> str:
    give_up = monotonic_s() + DRAINED_WITHIN_S
    while True:
        with installation.engine.connect() as conn:
            run = find_run(conn, given)
        if run.state in ENDED or monotonic_s() > give_up:
            return _ended(run)
        threading.Event().wait(0.1)


def _ended(run: Run) -> str:
    if run.state not in ENDED:
        return f"Run {run.id} has just ended, and history does not say how yet: there is nothing to cancel."
    at = f" at {_moment(run.ended_at)}" if run.ended_at else ""
    why = f" ({run.reason or run.error})" if run.reason or run.error else ""
    return f"Run {run.id} has ended: it {_WAS.get(run.state, 'is')} {run.state}{at}{why}. There is nothing to cancel."


_WAS: Final = {RunState.SUCCEEDED: "has", RunState.FAILED: "has", RunState.CANCELLED: "was"}


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _broadcast(app: Celery, done: Cancelled, order: Order) -> None:
    """For speed: a worker that does not hear it finds the order with its next renewal."""
    control: Any = app.control
    arguments = {"run_id": done.run_id, "order": order.text()}
    try:
        control.broadcast(CANCEL, arguments=arguments, destination=[done.worker] if done.worker else None)
    except Exception as exc:  # noqa: BLE001  # of the broker's, of any kind: the renewal tells it
        log.warning("worker_not_told", run_id=done.run_id, error=type(exc).__name__, then="its next renewal tells it")
