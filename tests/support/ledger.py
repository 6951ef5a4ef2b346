"""What the ledger's tests tell it, and what they read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, RowMapping, text

from beatline.clock import utc_now, utc_today
from beatline.engine.messages import StoredMessage, new_message
from beatline.errors import NotFoundError
from beatline.ledger import partitions
from beatline.ledger.epochs import Began, look
from beatline.ledger.events import FIELD, Event
from beatline.ledger.history import Run, find_run
from beatline.ledger.model import SCHEMA, metadata
from beatline.ledger.states import EventKind, RunState
from beatline.ledger.store import NewRun

if TYPE_CHECKING:
    from beatline.installation import Installation

_CROWD: Final = """
    INSERT INTO beatline.runs (day, id, task, queue, state, progress, attempt, changed_at, accepted_at, eta, message)
    SELECT CAST(:today AS date) + n % 10, 'crowd-' || n, 'tests.work', 'default', 'delayed', 10, 1, now(), now(),
        now() + interval '1 day' + n * interval '1 second', convert_to(repeat('m', 500), 'UTF8')
    FROM generate_series(1, :count) n
"""


def event(kind: EventKind, run_id: str, *, attempt: int = 1, day: date | None = None, **facts: Any) -> Event:
    """An event of a task on the queue `default`; now, if nothing else is said."""
    said: dict[str, Any] = {"at": utc_now().timestamp(), "task": "tests.work", "queue": "default"} | facts
    return Event(kind=kind, run_id=run_id, attempt=attempt, day=(day or utc_today()).isoformat(), **said)


def message(run_id: str, *, queue: str = "default", priority: int = 0, attempt: int = 1) -> StoredMessage:
    """A message as a sender makes it."""
    head = {"id": run_id, "task": "tests.work", "bl_v": 1, "bl_attempt": attempt, "bl_day": utc_today().isoformat(),
            "bl_epoch": 0, "bl_published": utc_now().timestamp(), "bl_stored": 1}  # fmt: skip
    return new_message(head, ("application/json", "utf-8", "[[], {}, null]"), {"priority": priority}, queue)


def accepted(run_id: str, *, queue: str = "default", attempt: int = 1, **facts: Any) -> Event:
    """The event of a run that was sent with `.delay()`."""
    payload = message(run_id, queue=queue, attempt=attempt).payload
    said: dict[str, Any] = {
        "queued": True,
        "args_shown": "()",
        "kwargs_shown": "{}",
        "message": payload,
        "queue": queue,
    }
    return event(EventKind.ACCEPTED, run_id, attempt=attempt, **said | facts)


def new_run(run_id: str, *, day: date | None = None, **facts: Any) -> NewRun:
    """A run that is accepted by its row."""
    said: dict[str, Any] = {"task": "tests.work", "queue": "default", "message": message(run_id).payload,
                            "accepted_at": utc_now()}  # fmt: skip
    return NewRun(run_id=run_id, day=day or utc_today(), **said | facts)


def tell(installation: Installation, events: Iterable[Event]) -> None:
    """Append events to the stream, as workers do."""
    with installation.redis.pipeline(transaction=False) as pipe:
        for one in events:
            pipe.xadd(installation.keys.events, {FIELD: one.to_json()})
        pipe.execute()


def long_ago(installation: Installation) -> None:
    """Redis's epoch began so long ago that only a message's own age is in doubt."""
    redis, keys = installation.redis, installation.keys
    server = look(redis, keys)
    began = Began(7, server.now_ms - 100 * 3_600_000, True, server.run_id)
    redis.mset({keys.epoch: 7, keys.since: began.note()})


def rows(conn: Connection, table: str) -> list[dict[str, Any]]:
    """Every row of a table of ours, in the order of its text."""
    found = [dict(row) for row in conn.execute(metadata.tables[f"{SCHEMA}.{table}"].select()).mappings()]
    return sorted(found, key=lambda row: json.dumps(row, default=str))


def delay_a_crowd(installation: Installation, count: int) -> None:
    """So many other runs that wait for days, over ten days' partitions, each with as much of a message as most have."""
    with installation.engine.begin() as conn:
        partitions.ensure(conn, utc_today(), ahead=9)
        conn.execute(text(_CROWD), {"today": utc_today(), "count": count})
        conn.execute(text("ANALYZE beatline.runs"))


def run_of(installation: Installation, run_id: str) -> Run:
    """A run as history tells of it. Raises NotFoundError as long as it does not know it."""
    with installation.engine.connect() as conn:
        return find_run(conn, run_id)


def known_run(installation: Installation, run_id: str) -> Run | None:
    """A run as history tells of it; None as long as it does not know it."""
    with suppress(NotFoundError):
        return run_of(installation, run_id)
    return None


def state_of(installation: Installation, run_id: str) -> RunState | None:
    """The state of a run; None as long as history does not know it."""
    run = known_run(installation, run_id)
    return run.state if run else None


def run_row(conn: Connection, run_id: str) -> RowMapping:
    """The row of a run."""
    return conn.execute(text("SELECT * FROM beatline.runs WHERE id = :id"), {"id": run_id}).mappings().one()


def waiting(installation: Installation, queue: str = "default") -> list[StoredMessage]:
    """The messages that lie in a queue's list of the lowest priority, the next one first."""
    client: Any = installation.redis
    keys = [
        installation.keys.queue(name) for name in (queue, f"{queue}\x06\x163", f"{queue}\x06\x166", f"{queue}\x06\x169")
    ]
    return [StoredMessage.parse(payload) for key in keys for payload in reversed(client.lrange(key, 0, -1))]


def moment(day: date, hour: int = 12) -> float:
    """Seconds since 1970 at that hour of a day, in UTC."""
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC).timestamp()
