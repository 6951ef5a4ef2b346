"""Writes a batch of events into PostgreSQL: a handful of statements, idempotent, by the rules of `fold`."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from beatline.clock import utc_now
from beatline.ledger.database import sql
from beatline.ledger.events import MESSAGE_LIMIT_BYTES, storable
from beatline.ledger.fold import OF_END, OF_MESSAGE, OF_STATE, Batch, Row, fold
from beatline.ledger.intake import Entry, Known, Refused
from beatline.ledger.states import ENDED
from beatline.secrets import Keyring

_RUN_TYPES: Final = {
    "id": "text", "task": "text", "queue": "text", "state": "text", "progress": "bigint", "attempt": "integer",
    "changed_at": "timestamptz", "priority": "smallint", "schedule": "text", "slot": "timestamptz", "root_id": "text",
    "parent_id": "text", "args_shown": "text", "kwargs_shown": "text", "message": "text", "message_attempt": "integer",
    "accepted_at": "timestamptz", "queued_at": "timestamptz", "started_at": "timestamptz", "ended_at": "timestamptz",
    "eta": "timestamptz", "expires": "timestamptz", "worker": "text", "result": "text", "error": "text",
    "reason": "text",
}  # fmt: skip
_ATTEMPT_TYPES: Final = {
    "run_id": "text", "attempt": "integer", "outcome": "text", "fence": "bigint", "worker": "text",
    "started_at": "timestamptz", "ended_at": "timestamptz", "runtime_s": "double precision", "result": "text",
    "error": "text", "traceback": "text", "reason": "text", "refused_fences": "bigint[]",
}  # fmt: skip

# "C", because the fold compares by code point.
_FURTHER: Final = (
    "(new.progress > r.progress OR (new.progress = r.progress AND "
    '(new.changed_at, new.state COLLATE "C") < (r.changed_at, r.state COLLATE "C")))'
)
_NEWER_MESSAGE: Final = "(new.message_attempt > COALESCE(r.message_attempt, 0))"
_ENDS: Final = ", ".join(f"'{state}'" for state in sorted(ENDED))
_ENDS_SOONER: Final = (
    "(new.outcome IS NOT NULL AND (r.outcome IS NULL OR "
    f'(new.outcome NOT IN ({_ENDS}), new.ended_at, new.outcome COLLATE "C") < '
    f'(r.outcome NOT IN ({_ENDS}), r.ended_at, r.outcome COLLATE "C")))'
)


def _taken(names: Iterable[str], condition: str) -> list[str]:
    return [f"{name} = CASE WHEN {condition} THEN new.{name} ELSE r.{name} END" for name in names]


def _upsert(insert: str, types: Mapping[str, str], sets: Sequence[str]) -> str:
    """`insert` with its columns filled in; `new` is the row that is written, `r` the one that stands."""
    values = ", ".join("decode(new.message, 'base64')" if name == "message" else f"new.{name}" for name in types)
    typed = ", ".join(f"{name} {kind}" for name, kind in types.items())
    filled = insert.replace("{columns}", ", ".join(types)).replace("{values}", values).replace("{typed}", typed)
    return filled + ",\n".join(sets).replace("new.", "excluded.")


_DAYS: Final = """
    INSERT INTO {schema}.run_days (id, day)
    SELECT id, day FROM json_to_recordset(CAST(:rows AS json)) AS new (id text, day date)
    ON CONFLICT DO NOTHING
"""

_RUNS: Final = _upsert(
    """
    INSERT INTO {schema}.runs AS r (day, {columns})
    SELECT d.day, {values}
    FROM json_to_recordset(CAST(:rows AS json)) AS new ({typed}) JOIN {schema}.run_days d ON d.id = new.id
    ORDER BY new.id
    ON CONFLICT (day, id) DO UPDATE SET
    """,
    _RUN_TYPES,
    [
        *_taken(OF_STATE, _FURTHER),
        *_taken(OF_MESSAGE, _NEWER_MESSAGE),
        "accepted_at = LEAST(r.accepted_at, new.accepted_at)",
        "queued_at = GREATEST(r.queued_at, new.queued_at)",
        "started_at = GREATEST(r.started_at, new.started_at)",
    ],
)

_ATTEMPTS: Final = _upsert(
    """
    INSERT INTO {schema}.attempts AS r (day, refused, {columns})
    SELECT d.day, cardinality(new.refused_fences), {values}
    FROM json_to_recordset(CAST(:rows AS json)) AS new ({typed}) JOIN {schema}.run_days d ON d.id = new.run_id
    ORDER BY new.run_id, new.attempt
    ON CONFLICT (day, run_id, attempt) DO UPDATE SET
    """,
    _ATTEMPT_TYPES,
    [
        *_taken(OF_END, _ENDS_SOONER),
        "started_at = LEAST(r.started_at, new.started_at)",
        "fence = GREATEST(r.fence, new.fence)",
        """worker = CASE WHEN new.fence IS NOT DISTINCT FROM r.fence THEN LEAST(r.worker COLLATE "C", new.worker)
                         WHEN r.fence IS NULL OR new.fence > r.fence THEN COALESCE(new.worker, r.worker)
                         ELSE COALESCE(r.worker, new.worker) END""",
        """refused_fences = CASE WHEN new.refused_fences = '{}' THEN r.refused_fences ELSE
                            ARRAY(SELECT DISTINCT f FROM unnest(r.refused_fences || new.refused_fences) f ORDER BY f) END""",
        """refused = CASE WHEN new.refused_fences = '{}' THEN r.refused ELSE
                     cardinality(ARRAY(SELECT DISTINCT unnest(r.refused_fences || new.refused_fences))) END""",
    ],
)

_PARK: Final = """
    INSERT INTO {schema}.parked_events (stream_id, payload, reason, at)
    SELECT stream_id, payload, reason, :at
    FROM json_to_recordset(CAST(:rows AS json)) AS new (stream_id text, payload text, reason text)
    ON CONFLICT DO NOTHING
"""


def apply(conn: Connection, events: Iterable[Known], keyring: Keyring) -> None:
    """Write events in the transaction of `conn`; written twice, or in another order, they come to the same rows."""
    batch = fold(events)
    if not batch.days:
        return
    # Rows are written in the order of their ids everywhere, so that two recorders never wait for one another in a ring.
    days = [{"id": run_id, "day": day} for run_id, day in sorted(batch.days.items())]
    conn.execute(sql(conn, _DAYS), {"rows": json.dumps(days)})
    if batch.runs:
        conn.execute(sql(conn, _RUNS), {"rows": json.dumps(_sealed(batch, keyring))})
    if batch.attempts:
        conn.execute(sql(conn, _ATTEMPTS), {"rows": json.dumps(list(batch.attempts.values()))})


def park(conn: Connection, refused: Iterable[Refused], keyring: Keyring) -> None:
    """Keep entries that cannot be applied, each with its reason; a message in one is encrypted as in a run's row."""
    rows: list[dict[str, Any]] = [
        {"stream_id": one.entry.stream_id, "payload": _parked(one.entry, keyring), "reason": one.reason}
        for one in refused
    ]
    if rows:
        conn.execute(sql(conn, _PARK), {"rows": json.dumps(rows), "at": utc_now()})


def _parked(entry: Entry, keyring: Keyring) -> str:
    try:
        said = json.loads(entry.payload)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or "message" not in said:
        return storable(entry.payload, 2 * MESSAGE_LIMIT_BYTES)
    plain = json.dumps(said["message"]).encode()
    said["message"] = b64encode(keyring.encrypt(plain, bound_to=f"event:{entry.stream_id}")).decode("ascii")
    return json.dumps(said)


def _sealed(batch: Batch, keyring: Keyring) -> list[Row]:
    return [
        row | {"message": _seal(row["message"], row["id"], keyring)} if row.get("message") else row
        for row in batch.runs.values()
    ]


def _seal(message: str, run_id: str, keyring: Keyring) -> str:
    return b64encode(keyring.encrypt(message.encode(), bound_to=message_binding(run_id))).decode("ascii")


def message_binding(run_id: str) -> str:
    """What a run's message is encrypted for: moved to another run's row, it does not open."""
    return f"run:{run_id}"
