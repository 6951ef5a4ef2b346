"""What people ask of the ledger: runs by what they are, one run with its attempts, the oldest that wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, or_, select, tuple_

from beatline.errors import NotFoundError
from beatline.ledger.database import sql
from beatline.ledger.model import attempts, run_days, runs
from beatline.ledger.states import RunState

SHORTEST_PREFIX: Final = 4
_HIGHEST: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Run:
    """A run as history shows it. Times of queueing and start are those of its latest attempt."""

    id: str
    task: str
    queue: str
    state: RunState
    attempt: int
    priority: int | None
    schedule: str | None
    slot: datetime | None
    args_shown: str | None
    kwargs_shown: str | None
    accepted_at: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    changed_at: datetime
    eta: datetime | None
    expires: datetime | None
    worker: str | None
    result: str | None
    error: str | None
    reason: str | None
    root_id: str | None
    parent_id: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a run; without a start it was reserved by a worker and never began."""

    attempt: int
    outcome: str | None
    worker: str | None
    fence: int | None
    started_at: datetime | None
    ended_at: datetime | None
    runtime_s: float | None
    result: str | None
    error: str | None
    traceback: str | None
    reason: str | None
    refused: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; what is None does not matter. A task may end in `*`."""

    states: frozenset[RunState] = frozenset()
    task: str | None = None
    queue: str | None = None
    schedule: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """How many runs of a queue are in a state that is no end, and since when the oldest of them is."""

    count: int
    oldest: datetime


_RUN_COLUMNS: Final = tuple(runs.c[name] for name in Run.__slots__)
_ATTEMPT_COLUMNS: Final = tuple(attempts.c[name] for name in Attempt.__slots__)


def list_runs(
    conn: Connection, wanted: RunFilter, *, limit: int = 50, before: tuple[datetime, str] | None = None
) -> list[Run]:
    """The runs that were accepted last, the newest first; `before` (accepted_at, id) of one page's last gives the next."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.states:
        conditions.append(runs.c.state.in_([str(state) for state in wanted.states]))
    if wanted.task is not None:
        name = wanted.task.removesuffix("*")
        conditions.append(
            runs.c.task.startswith(name, autoescape=True) if name != wanted.task else runs.c.task == wanted.task
        )
    if wanted.queue is not None:
        conditions.append(runs.c.queue == wanted.queue)
    if wanted.schedule is not None:
        conditions.append(runs.c.schedule == wanted.schedule)
    if wanted.since is not None:
        conditions.append(or_(runs.c.accepted_at >= wanted.since, runs.c.accepted_at.is_(None)))
    if before is not None:
        conditions.append(tuple_(runs.c.accepted_at, runs.c.id) < before)
    rows = conn.execute(
        select(*_RUN_COLUMNS)
        .where(and_(True, *conditions))
        .order_by(runs.c.accepted_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    return [_run(row) for row in rows.mappings()]


def find_run(conn: Connection, given: str) -> Run:
    """The run of this id, or of the only id that begins so. Raises NotFoundError."""
    run_id = _whole_id(conn, given)
    row = (
        conn.execute(
            select(*_RUN_COLUMNS).join(run_days, and_(run_days.c.day == runs.c.day, run_days.c.id == runs.c.id))
            .where(run_days.c.id == run_id)
        )
        .mappings()
        .one_or_none()
    )  # fmt: skip
    if row is None:
        raise NotFoundError("run", given, "`beatline runs list` shows the last ones.")
    return _run(row)


def _whole_id(conn: Connection, given: str) -> str:
    if conn.execute(select(run_days.c.id).where(run_days.c.id == given)).scalar() or len(given) < SHORTEST_PREFIX:
        return given
    # By range, because LIKE uses no index but one made for it; whatever the collation, a range holds too much at most.
    found = list(
        conn.execute(
            select(run_days.c.id)
            .where(run_days.c.id.between(given, given + _HIGHEST), func.starts_with(run_days.c.id, given))
            .limit(6)
        ).scalars()
    )
    if len(found) > 1:
        shown = ", ".join(sorted(found)[:5]) + (", …" if len(found) > 5 else "")
        raise NotFoundError("single run", given, f"Several begin so: {shown}.")
    return found[0] if found else given


def attempts_of(conn: Connection, run_id: str) -> list[Attempt]:
    """The attempts of a run, the first first."""
    rows = conn.execute(
        select(*_ATTEMPT_COLUMNS)
        .join(run_days, and_(run_days.c.day == attempts.c.day, run_days.c.id == attempts.c.run_id))
        .where(run_days.c.id == run_id)
        .order_by(attempts.c.attempt)
    )
    return [Attempt(**row) for row in rows.mappings()]


def open_runs(conn: Connection) -> Mapping[tuple[str, RunState], Open]:
    """By queue and state: how many runs have not ended, and since when the oldest has been so."""
    rows = conn.execute(
        sql(
            conn,
            "SELECT queue, state, count(*) AS open, min(changed_at) AS oldest FROM {schema}.runs "
            "WHERE ended_at IS NULL GROUP BY queue, state",
        )
    )
    return {(row.queue, RunState(row.state)): Open(row.open, row.oldest) for row in rows}


def _run(row: RowMapping) -> Run:
    values: dict[str, Any] = dict(row)
    values["state"] = RunState(row["state"])
    return Run(**values)
