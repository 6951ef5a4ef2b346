"""What became of each slot, in PostgreSQL: a page of decisions is one statement, and an older leader writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from beatline.engine.messages import StoredMessage, accepted_event
from beatline.ledger.apply import message_binding
from beatline.ledger.database import sql
from beatline.ledger.model import occurrences
from beatline.ledger.states import EventKind, RunState, progress
from beatline.names import slot_run_id
from beatline.schedules.decide import Decision, Outcome, OutcomeKind
from beatline.schedules.model import Schedule
from beatline.secrets import Keyring

ROLE: Final = "beat"
"""Beat's row in the table `leaders`."""


def run_id_of(schedule_id: UUID, slot: datetime) -> str:
    """The id of the run that a slot fires."""
    return slot_run_id(schedule_id, slot.astimezone(UTC).isoformat())


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision about one schedule, and the message of the run that it fires, if it fires one."""

    schedule: Schedule
    decision: Decision
    message: StoredMessage | None


@dataclass(frozen=True, slots=True)
class Scribe:
    """Who writes: the leader's number and name."""

    number: int
    name: str


def record(conn: Connection, page: Sequence[Decided], scribe: Scribe, now: datetime, keyring: Keyring) -> set[UUID]:
    """Write occurrences, runs and `decided_until` of a page in one statement; the schedules that were written.

    Left out are schedules that changed since they were read or are being changed now, and all of them if `scribe` is
    no longer the leader. What stands already stays as it is.
    """
    if not page:
        return set()
    outcomes = [(one, outcome) for one in page for outcome in one.decision.outcomes]
    fired = [one.message for one in page if one.message is not None]
    rows = conn.execute(
        sql(conn, _RECORD),
        {
            "role": ROLE,
            "number": scribe.number,
            "by": scribe.name,
            "now": now,
            "ids": [str(one.schedule.id) for one in page],
            "versions": [one.schedule.version for one in page],
            "was": [one.schedule.decided_until for one in page],
            "until": [one.decision.decided_until for one in page],
            **_columns("o", [_outcome(one, outcome) for one, outcome in outcomes], _OUTCOME),
            **_columns("r", [_run(message, keyring) for message in fired], _RUN),
        },
    )
    return set(rows.scalars())


def insert_settled(conn: Connection, schedule_id: UUID, outcomes: Sequence[Outcome], now: datetime, *, by: str) -> None:
    """Write outcomes that fire nothing, given because a schedule changed."""
    for outcome in outcomes:
        conn.execute(
            insert(occurrences)
            .values(
                day=outcome.first.astimezone(UTC).date(),
                schedule_id=schedule_id,
                slot=outcome.first,
                last_slot=outcome.last,
                slots=outcome.count,
                outcome=outcome.kind,
                reason=outcome.reason,
                decided_at=now,
                lateness_s=(now - outcome.first).total_seconds(),
                decided_by=by,
            )
            .on_conflict_do_nothing()
        )


def latest(conn: Connection, schedule_id: UUID, limit: int) -> list[dict[str, Any]]:
    """The last occurrences of a schedule, the newest first, with the state of the run each fired."""
    rows = conn.execute(
        sql(
            conn,
            "SELECT o.slot, o.last_slot, o.slots, o.outcome, o.reason, o.run_id, o.lateness_s, r.state AS run_state "
            "FROM {schema}.occurrences o LEFT JOIN {schema}.runs r ON r.day = o.day AND r.id = o.run_id "
            "WHERE o.schedule_id = :id ORDER BY o.slot DESC LIMIT :limit",
        ),
        {"id": schedule_id, "limit": limit},
    )
    return [dict(row) for row in rows.mappings()]


def last_outcomes(conn: Connection) -> dict[UUID, dict[str, Any]]:
    """The newest occurrence of each schedule that has one of the last days."""
    rows = conn.execute(
        sql(
            conn,
            "SELECT s.id, o.outcome, o.last_slot, r.state AS run_state FROM {schema}.schedules s "
            "CROSS JOIN LATERAL (SELECT * FROM {schema}.occurrences o WHERE o.schedule_id = s.id "
            "AND o.day BETWEEN CAST(s.decided_until AT TIME ZONE 'UTC' AS date) - 2 "
            "AND CAST(s.decided_until AT TIME ZONE 'UTC' AS date) ORDER BY o.slot DESC LIMIT 1) o "
            "LEFT JOIN {schema}.runs r ON r.day = o.day AND r.id = o.run_id WHERE s.removed_at IS NULL",
        )
    )
    return {row["id"]: dict(row) for row in rows.mappings()}


_OUTCOME: Final = {
    "schedule_id": "uuid", "day": "date", "slot": "timestamptz", "last_slot": "timestamptz", "slots": "integer",
    "outcome": "text", "reason": "text", "run_id": "text",
}  # fmt: skip
_RUN: Final = {
    "id": "text", "day": "date", "task": "text", "queue": "text", "priority": "smallint", "schedule": "text",
    "slot": "timestamptz", "root_id": "text", "args_shown": "text", "kwargs_shown": "text", "message": "bytea",
}  # fmt: skip


def _columns(prefix: str, rows: Sequence[Sequence[Any]], types: Mapping[str, str]) -> dict[str, list[Any]]:
    return {f"{prefix}_{name}": [row[index] for row in rows] for index, name in enumerate(types)}


def _unnest(prefix: str, types: Mapping[str, str]) -> str:
    arrays = ", ".join(f"CAST(:{prefix}_{name} AS {kind}[])" for name, kind in types.items())
    return f"unnest({arrays}) AS {prefix}({', '.join(types)})"


def _outcome(one: Decided, outcome: Outcome) -> tuple[Any, ...]:
    run_id = run_id_of(one.schedule.id, outcome.first) if outcome.kind is OutcomeKind.FIRED else None
    return (
        str(one.schedule.id), outcome.first.astimezone(UTC).date(), outcome.first, outcome.last, outcome.count,
        outcome.kind.value, outcome.reason, run_id,
    )  # fmt: skip


def _run(message: StoredMessage, keyring: Keyring) -> tuple[Any, ...]:
    event = accepted_event(json.loads(message.payload), message.queue, message.payload)
    sealed = keyring.encrypt(message.payload.encode(), bound_to=message_binding(message.run_id))
    return (
        event.run_id, event.day, event.task, event.queue, event.priority, event.schedule, event.slot, event.root_id,
        event.args_shown, event.kwargs_shown, sealed,
    )  # fmt: skip


_RECORD: Final = f"""
WITH leader AS (
    SELECT 1 FROM {{schema}}.leaders WHERE role = :role AND number = :number FOR SHARE
), wanted AS (
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS integer[]), CAST(:was AS timestamptz[]),
        CAST(:until AS timestamptz[])) AS w(id, version, was, until)
), mine AS (
    SELECT s.id, w.until FROM {{schema}}.schedules s JOIN wanted w ON w.id = s.id CROSS JOIN leader
    WHERE s.version = w.version AND s.decided_until = w.was
    ORDER BY s.id FOR UPDATE OF s SKIP LOCKED
), moved AS (
    UPDATE {{schema}}.schedules s SET decided_until = mine.until FROM mine WHERE s.id = mine.id RETURNING s.id
), told AS (
    INSERT INTO {{schema}}.occurrences
        (day, schedule_id, slot, last_slot, slots, outcome, reason, run_id, decided_at, lateness_s, decided_by)
    SELECT o.day, o.schedule_id, o.slot, o.last_slot, o.slots, o.outcome, o.reason, o.run_id, :now,
        extract(epoch FROM CAST(:now AS timestamptz) - o.slot), :by
    FROM {_unnest("o", _OUTCOME)} JOIN moved ON moved.id = o.schedule_id
    ON CONFLICT DO NOTHING RETURNING run_id
), fired AS (
    SELECT r.* FROM {_unnest("r", _RUN)} JOIN told ON told.run_id = r.id ORDER BY r.id
), days AS (
    INSERT INTO {{schema}}.run_days (id, day) SELECT id, day FROM fired ON CONFLICT DO NOTHING
), made AS (
    INSERT INTO {{schema}}.runs
        (day, id, task, queue, state, progress, attempt, changed_at, priority, schedule, slot, root_id, args_shown,
         kwargs_shown, message, message_attempt, accepted_at)
    SELECT day, id, task, queue, '{RunState.ACCEPTED}', {progress(EventKind.ACCEPTED, 1)}, 1, :now, priority, schedule,
        slot, root_id, args_shown, kwargs_shown, message, 1, :now
    FROM fired ON CONFLICT DO NOTHING
)
SELECT id FROM moved
"""  # noqa: S608  # constants of this module
