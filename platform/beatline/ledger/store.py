"""Runs as rows: written by who accepts them, read by people and by the reconciler."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from sqlalchemy import Connection

from beatline.engine.delay import waits
from beatline.ledger.apply import message_binding
from beatline.ledger.database import sql
from beatline.ledger.events import SHOWN_CHARS, storable
from beatline.ledger.states import EventKind, RunState, progress
from beatline.secrets import Keyring


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run that is accepted by its row: `message` is what will lie in the queue, `day` is part of its identity."""

    run_id: str
    day: date
    task: str
    queue: str
    message: str
    accepted_at: datetime
    priority: int | None = None
    schedule: str | None = None
    slot: datetime | None = None
    root_id: str | None = None
    parent_id: str | None = None
    args_shown: str | None = None
    kwargs_shown: str | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    idempotency_key: str | None = None


_INSERT_DAYS: Final = """
    INSERT INTO {schema}.run_days (id, day, idempotency_key)
    SELECT id, day, idempotency_key
    FROM json_to_recordset(CAST(:rows AS json)) AS new (id text, day date, idempotency_key text)
    ON CONFLICT DO NOTHING RETURNING id
"""
_INSERT_RUNS: Final = """
    INSERT INTO {schema}.runs (day, id, task, queue, state, progress, attempt, changed_at, priority, schedule, slot,
        root_id, parent_id, args_shown, kwargs_shown, message, message_attempt, accepted_at, eta, expires)
    SELECT day, id, task, queue, state, :progress, 1, accepted_at, priority, schedule, slot,
        root_id, parent_id, args_shown, kwargs_shown, decode(message, 'base64'), 1, accepted_at, eta, expires
    FROM json_to_recordset(CAST(:rows AS json)) AS new (day date, id text, task text, queue text, state text, priority smallint,
        schedule text, slot timestamptz, root_id text, parent_id text, args_shown text, kwargs_shown text, message text,
        accepted_at timestamptz, eta timestamptz, expires timestamptz)
"""
_MARK_QUEUED: Final = """
    UPDATE {schema}.runs SET state = 'queued', progress = attempt * 10 + 1, changed_at = :at, queued_at = :at
    WHERE (day, id) IN (SELECT day, id FROM json_to_recordset(CAST(:rows AS json)) AS new (day date, id text))
      AND progress < attempt * 10 + 1
"""


def insert_runs(conn: Connection, runs: Sequence[NewRun], keyring: Keyring) -> frozenset[str]:
    """Accept runs in the transaction of `conn`; the ids of those that are new. Two statements, however many runs.

    A run whose id or idempotency key stands already is left as it is, and is not new. One whose `eta` is far off is
    delayed: it is not to be published, but sent when it is due.
    """
    if not runs:
        return frozenset()
    days = [
        {"id": run.run_id, "day": run.day.isoformat(), "idempotency_key": run.idempotency_key}
        for run in sorted(runs, key=lambda run: run.run_id)  # one order everywhere: see `apply`
    ]
    new = frozenset(conn.execute(sql(conn, _INSERT_DAYS), {"rows": json.dumps(days)}).scalars())
    rows = [_row(run, keyring) for run in {run.run_id: run for run in reversed(runs)}.values() if run.run_id in new]
    if rows:
        conn.execute(
            sql(conn, _INSERT_RUNS),
            {
                "rows": json.dumps(rows),
                "progress": progress(EventKind.ACCEPTED, 1),
            },
        )
    return new


def mark_queued(conn: Connection, runs: Iterable[tuple[date, str]], at: datetime) -> None:
    """The current attempt of these runs (day, id) has been put into its queue; what is further on stays so."""
    rows = [{"day": day.isoformat(), "id": run_id} for day, run_id in runs]
    if rows:
        conn.execute(sql(conn, _MARK_QUEUED), {"rows": json.dumps(rows), "at": at})


def _row(run: NewRun, keyring: Keyring) -> dict[str, object]:
    sealed = keyring.encrypt(run.message.encode(), bound_to=message_binding(run.run_id))
    return {
        "day": run.day.isoformat(),
        "id": run.run_id,
        "task": run.task,
        "queue": run.queue,
        "state": RunState.DELAYED if waits(run.eta, run.accepted_at) else RunState.ACCEPTED,
        "priority": run.priority,
        "schedule": run.schedule,
        "slot": _iso(run.slot),
        "root_id": run.root_id,
        "parent_id": run.parent_id,
        "args_shown": _shown(run.args_shown),
        "kwargs_shown": _shown(run.kwargs_shown),
        "message": b64encode(sealed).decode("ascii"),
        "accepted_at": _iso(run.accepted_at),
        "eta": _iso(run.eta),
        "expires": _iso(run.expires),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _shown(text: str | None) -> str | None:
    return None if text is None else storable(text, SHOWN_CHARS)
