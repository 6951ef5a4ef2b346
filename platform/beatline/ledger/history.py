"""What people ask of the ledger: runs by what they are, one run with its attempts, the oldest that wait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, func, or_, select, tuple_

from beatline.errors import BeatlineError, NotFoundError
from beatline.ledger.database import sql
from beatline.ledger.model import attempts, run_days, runs
from beatline.ledger.states import RunState

SHORTEST_PREFIX: Final = 4
_SPAN: Final = re.compile(r"(\d+)\s*(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
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
    """Which runs to list; what is None does not matter. A task may end in `*`.

    `text` stands somewhere in the id, the task, the arguments as they are shown, the result, the error or the reason,
    whatever its case. `since` is included, `until` is not.
    """

    states: frozenset[RunState] = frozenset()
    task: str | None = None
    queue: str | None = None
    schedule: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """How many runs of a queue are in a state that is no end, and since when the oldest of them is."""

    count: int
    oldest: datetime


_RETRIES: Final = """
    SELECT a.after ->> 'run_id' AS id, r.state FROM {schema}.audit a
    LEFT JOIN {schema}.run_days d ON d.id = a.after ->> 'run_id'
    LEFT JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id
    WHERE a.kind = 'run' AND a.name = :id AND a.action = 'retry' ORDER BY a.id
"""
_ORIGIN: Final = """
    WITH RECURSIVE up (id, step) AS (
        SELECT CAST(:id AS text), 0
        UNION ALL
        SELECT a.name, up.step + 1 FROM up JOIN {schema}.run_days d ON d.id = up.id
        JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id
        JOIN {schema}.audit a ON a.kind = 'run' AND a.name = r.parent_id AND a.action = 'retry'
            AND a.after ->> 'run_id' = up.id
    )
    SELECT id FROM up ORDER BY step DESC LIMIT 1
"""  # by the parent too, which the index of the audit holds
_DESCENDANTS: Final = """
    WITH RECURSIVE down (id) AS (
        SELECT CAST(:id AS text)
        UNION
        SELECT a.after ->> 'run_id' FROM down
        JOIN {schema}.audit a ON a.kind = 'run' AND a.name = down.id AND a.action = 'retry'
    )
    SELECT r.id, r.state FROM down JOIN {schema}.run_days d ON d.id = down.id
    JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id WHERE down.id <> :id ORDER BY r.accepted_at, r.id
"""
_RUN_COLUMNS: Final = tuple(runs.c[name] for name in Run.__slots__)
_SEARCHED: Final = tuple(
    runs.c[name] for name in ("id", "task", "args_shown", "kwargs_shown", "result", "error", "reason")
)
_ATTEMPT_COLUMNS: Final = tuple(attempts.c[name] for name in Attempt.__slots__)


def moment(text: str, now: datetime, called: str, local: tzinfo | None = None) -> datetime:
    """A moment in UTC: a span before `now` (15m, 2h, 7d), or a date with or without a time, in `local`, else this
    machine's time. Raises BeatlineError, which says what it is `called`.
    """
    span = _SPAN.fullmatch(text.strip().lower())
    try:
        if span:
            return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
        given = datetime.fromisoformat(text.strip())
        return (given if given.tzinfo or local is None else given.replace(tzinfo=local)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BeatlineError(
            f"{called} {text[:40]!r} is no time: write 15m, 2h, 7d, 2026-11-22, or 2026-11-22T14:00."
        ) from None


def list_runs(
    conn: Connection, wanted: RunFilter, *, limit: int = 50, before: tuple[datetime | None, str] | None = None
) -> list[Run]:
    """The runs that were accepted last, the newest first; `before` (accepted_at, id) of one page's last gives the next.

    Runs that arrive meanwhile stand before the first page, so that no page repeats another. One whose acceptance has
    not been told yet counts as the newest.
    """
    conditions = _conditions(wanted)
    if before is not None:
        conditions.append(_older(*before))
    rows = conn.execute(
        select(*_RUN_COLUMNS)
        .where(and_(True, *conditions))
        .order_by(runs.c.accepted_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    return [_run(row) for row in rows.mappings()]


def _conditions(wanted: RunFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.states:
        found.append(runs.c.state.in_([str(state) for state in wanted.states]))
    if wanted.task is not None:
        name = wanted.task.removesuffix("*")
        found.append(
            runs.c.task.startswith(name, autoescape=True) if name != wanted.task else runs.c.task == wanted.task
        )
    if wanted.queue is not None:
        found.append(runs.c.queue == wanted.queue)
    if wanted.schedule is not None:
        found.append(runs.c.schedule == wanted.schedule)
    if wanted.since is not None:
        found.append(or_(runs.c.accepted_at >= wanted.since, runs.c.accepted_at.is_(None)))
    if wanted.until is not None:
        found.append(runs.c.accepted_at < wanted.until)
    if wanted.text:
        found.append(or_(*(column.icontains(wanted.text, autoescape=True) for column in _SEARCHED)))
    return found


def _older(accepted_at: datetime | None, run_id: str) -> ColumnElement[bool]:
    if accepted_at is not None:
        return tuple_(runs.c.accepted_at, runs.c.id) < (accepted_at, run_id)
    return or_(runs.c.accepted_at.is_not(None), runs.c.id < run_id)


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


def retries_of(conn: Connection, run_id: str) -> Mapping[str, RunState | None]:
    """The runs that people made of this one by retrying it, the first first, with their states; None: history has
    dropped it.
    """
    rows = conn.execute(sql(conn, _RETRIES), {"id": run_id})
    return {row.id: None if row.state is None else RunState(row.state) for row in rows}


def origin_of(conn: Connection, run_id: str) -> str:
    """The run that this one is a retry of, or a retry of a retry of, as far back as history goes; else itself."""
    return str(conn.execute(sql(conn, _ORIGIN), {"id": run_id}).scalar_one())


def descendants_of(conn: Connection, run_id: str) -> Mapping[str, RunState]:
    """The retries of a run, their retries and so on, the first first, with their states; without those that history has
    dropped.
    """
    return {row.id: RunState(row.state) for row in conn.execute(sql(conn, _DESCENDANTS), {"id": run_id})}


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
