"""Ask for a run once more, with exactly the arguments it had: a new run, accepted by its row, out of the stored message.

The ended run stays what it was, and its history with it; the new one names it as its parent. It keeps schedule and slot,
because a task may read from them which period is meant, but it is not the slot's run: the occurrence names the first.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

from sqlalchemy import Connection, insert

from beatline.client.accepting import publish_soon
from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine.messages import StoredMessage, accepted_event
from beatline.engine.successors import name_successors
from beatline.errors import ConflictError, UnknownQueueError
from beatline.ledger.apply import message_binding
from beatline.ledger.database import sql
from beatline.ledger.history import descendants_of, find_run, origin_of
from beatline.ledger.model import audit
from beatline.ledger.states import ENDED, RunState
from beatline.ledger.store import NewRun, insert_runs
from beatline.queues.routing import known_queues

if TYPE_CHECKING:
    from beatline.installation import Installation

_LOCK: Final = """
    SELECT 1 FROM {schema}.runs r JOIN {schema}.run_days d ON d.id = r.id AND d.day = r.day WHERE d.id = :id FOR UPDATE OF r
"""
_KEPT: Final = """
    SELECT r.state, r.message, r.slot FROM {schema}.runs r JOIN {schema}.run_days d ON d.id = r.id AND d.day = r.day
    WHERE d.id = :id
"""


@dataclass(frozen=True, slots=True)
class Retried:
    """A run that was asked for once more: its id, the id of the new run, and whether that lies in its queue already.

    If Redis did not answer the new run stands all the same, and a recorder puts it into its queue.
    """

    run_id: str
    retried_as: str
    queued: bool


def retry_run(installation: Installation, given: str, *, who: str) -> Retried:
    """Accept a new run with the arguments of an ended one, whose id is given or begins so, and put it into its queue.

    Raises NotFoundError; ConflictError if the run has not ended, if a retry of it or of what it is a retry of has not, or
    if its message was not kept; UnknownQueueError; SecretError if its message does not open.
    """
    with installation.engine.begin() as conn:
        old_id = find_run(conn, given).id
        origin = origin_of(conn, old_id)
        conn.execute(sql(conn, _LOCK), {"id": origin})  # two who ask at once: the second sees the first's retry
        row = conn.execute(sql(conn, _KEPT), {"id": old_id}).one()
        _refuse_open(conn, old_id, origin, RunState(row.state))
        if row.message is None:
            raise ConflictError(
                f"The message of run {old_id} was not kept (it was too large, or its sender was no Beatline app): "
                "send the task again where its arguments are known."
            )
        plain = installation.keyring.decrypt(bytes(row.message), bound_to=message_binding(old_id))
        message = _again(old_id, plain, continued=row.state == RunState.SUCCEEDED)
        known = known_queues(installation.settings.queues)
        if message.queue not in known:
            raise UnknownQueueError(message.queue, sorted(known))
        event = accepted_event(json.loads(message.payload), message.queue, message.payload)
        now = utc_now()
        new = NewRun(
            run_id=message.run_id,
            day=date.fromisoformat(message.day),
            task=message.task,
            queue=message.queue,
            message=message.payload,
            accepted_at=now,
            priority=message.priority,
            schedule=event.schedule,
            slot=row.slot,
            root_id=event.root_id,
            parent_id=event.parent_id,
            args_shown=event.args_shown,
            kwargs_shown=event.kwargs_shown,
        )
        insert_runs(conn, [new], installation.keyring)
        told = {"run_id": new.run_id, "task": new.task}
        conn.execute(insert(audit).values(at=now, who=who, action="retry", kind="run", name=old_id, after=told))
    return Retried(old_id, new.run_id, publish_soon(installation, [message]))


def _refuse_open(conn: Connection, run_id: str, origin: str, state: RunState) -> None:
    if state not in ENDED:
        raise ConflictError(f"Run {run_id} is {state}: only a run that has ended can be retried.")
    for retry_id, its_state in descendants_of(conn, origin).items():
        if its_state not in ENDED:
            raise ConflictError(f"Run {run_id} is being retried already: run {retry_id} is {its_state}.")


def _again(old_id: str, plain: bytes, *, continued: bool) -> StoredMessage:
    """The message for a new run: its own id, first attempt, at once, and without an expiry that has passed.

    It goes on with the chain that the failed run broke off; what a run that succeeded has called already
    (`continued`) is not called twice. A chord has counted this member, and is left alone.
    """
    try:
        message: dict[str, Any] = json.loads(plain)
        head, properties = message["headers"], message["properties"]
        args, kwargs, embed = cast("list[Any]", json.loads(base64.b64decode(message["body"])))
    except (ValueError, KeyError, TypeError) as exc:
        raise ConflictError(
            f"The stored message of run {old_id} cannot be read ({type(exc).__name__}): send the task again."
        ) from None
    now, run_id = utc_now(), str(uuid4())
    kept = name_successors({**(embed or {}), "chord": None}, run_id, former=old_id)
    if continued:
        kept |= {"callbacks": None, "chain": None}
    head |= {
        h.RUN_ID: run_id, "parent_id": old_id, "root_id": head.get("root_id") or old_id, "retries": 0, "eta": None,
        "expires": None, h.ATTEMPT: 1, h.DAY: now.date().isoformat(), h.EPOCH: 0, h.PUBLISHED: now.timestamp(), h.STORED: 1,
        h.V: h.VERSION,
    }  # fmt: skip
    properties |= {"correlation_id": run_id, "delivery_tag": str(uuid4())}
    message["body"] = base64.b64encode(json.dumps([args, kwargs, kept]).encode()).decode("ascii")
    return StoredMessage.parse(json.dumps(message))
