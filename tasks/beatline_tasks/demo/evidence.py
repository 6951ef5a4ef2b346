"""What the demo's database holds when everything has come to rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from beatline.ledger.database import sql
from beatline.ledger.model import attempts, occurrences, runs, schedules
from beatline_tasks.demo.weather import Day

NAME: Final = "weather"
"""Of the source, its dataset and its schedule."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger says of the demo's schedule."""

    outcomes: dict[str, int]
    states: dict[str, int]
    busy: int
    fired: dict[datetime, str]
    known: frozenset[str]
    ended: frozenset[str]
    lateness_s: Sequence[float]
    """From a slot to the start of its run's first attempt, ascending."""


def stored_days(conn: Connection) -> dict[date, Day]:
    """The rows of the dataset."""
    if not _stands(conn):
        return {}
    fields = ", ".join(Day.__slots__)
    rows = conn.execute(sql(conn, f"SELECT {fields} FROM {{data}}.{NAME}"))  # noqa: S608  # our own names
    return {row["date"]: Day(**row) for row in rows.mappings()}


def stored_count(conn: Connection) -> int:
    """How many rows the dataset has."""
    if not _stands(conn):
        return 0
    return int(conn.execute(sql(conn, f"SELECT count(*) FROM {{data}}.{NAME}")).scalar_one())  # noqa: S608  # our own name


def open_runs(conn: Connection) -> int:
    """How many runs have no end yet."""
    query = select(func.count()).select_from(runs).where(runs.c.ended_at.is_(None))
    return int(conn.execute(query).scalar_one())


def has_ended(conn: Connection, run_id: str) -> bool:
    """Whether a run has an end."""
    return conn.execute(select(runs.c.ended_at).where(runs.c.id == run_id)).scalar() is not None


def attempts_of(conn: Connection, run_id: str) -> list[tuple[int, str, str | None]]:
    """The begun attempts of a run: number, worker, outcome."""
    table = attempts.c
    rows = conn.execute(
        select(table.attempt, table.worker, table.outcome)
        .where(table.run_id == run_id, table.started_at.is_not(None))
        .order_by(table.attempt)
    )
    return [(row.attempt, str(row.worker).partition("@")[0], row.outcome) for row in rows]


def read_ledger(engine: Engine) -> Ledger:
    """What happened to every slot and run of the demo's schedule."""
    with engine.connect() as conn:
        ours = select(schedules.c.id).where(schedules.c.name == NAME).scalar_subquery()
        slots = conn.execute(select(occurrences).where(occurrences.c.schedule_id == ours)).all()
        found = conn.execute(select(runs.c.id, runs.c.schedule, runs.c.state, runs.c.ended_at, runs.c.result)).all()
        started = conn.execute(
            select(runs.c.slot, attempts.c.started_at)
            .join(attempts, (attempts.c.run_id == runs.c.id) & (attempts.c.day == runs.c.day))
            .where(runs.c.schedule == NAME, attempts.c.attempt == 1, attempts.c.started_at.is_not(None))
        ).all()
    outcomes: dict[str, int] = {}
    for slot in slots:
        outcomes[slot.outcome] = outcomes.get(slot.outcome, 0) + slot.slots
    states: dict[str, int] = {}
    for run in found:
        if run.schedule == NAME:
            states[run.state] = states.get(run.state, 0) + 1
    return Ledger(
        outcomes=outcomes,
        states=states,
        busy=sum(1 for run in found if run.schedule == NAME and "busy" in (run.result or "")),
        fired={slot.slot: slot.run_id for slot in slots if slot.outcome == "fired"},
        known=frozenset(run.id for run in found),
        ended=frozenset(run.id for run in found if run.ended_at is not None),
        lateness_s=sorted((row.started_at - row.slot).total_seconds() for row in started),
    )


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """The value below which this share of the values lies; None without values."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))] if ascending else None


def _stands(conn: Connection) -> bool:
    found = conn.execute(sql(conn, "SELECT to_regclass('{data}.NAME')".replace("NAME", NAME)))
    return found.scalar() is not None
