"""Issues in PostgreSQL: begun once a period, moved on by each step only from the state it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID, uuid4, uuid5

from sqlalchemy import Connection, RowMapping, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as pg_insert

from beatline.artifacts.tables import artifacts
from beatline.clock import utc_now
from beatline.definitions import Definition
from beatline.errors import NotFoundError
from beatline_tasks.report.period import Period
from beatline_tasks.report.tables import report_deliveries, report_issues

Step = Literal["fetch_data", "render", "send", "clean_up"]
STEPS: Final[tuple[Step, ...]] = ("fetch_data", "render", "send", "clean_up")
State = Literal["begun", "fetched", "rendered", "sent", "skipped", "failed"]
OVER: Final = frozenset({"sent", "skipped", "failed"})
_REASON_CHARS: Final = 2000
_A_ROUND: Final = timedelta(days=1)
"""The files of an issue that is begun again must be there so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """A report for one period. `cleaned_at` is set once all its steps are over."""

    id: UUID
    report_id: UUID
    report: str
    period_start: datetime
    period_end: datetime
    state: State
    round: int
    run_id: str
    data: Mapping[str, Any] | None
    files: Sequence[Mapping[str, Any]] | None
    reason: str | None
    begun_at: datetime
    changed_at: datetime
    cleaned_at: datetime | None

    @property
    def period(self) -> Period:
        """What it is about."""
        return Period(self.period_start, self.period_end)

    def step_run_id(self, step: Step) -> str:
        """The run of a step in this round: the same however often the chain is sent, so that it runs once."""
        return str(uuid5(self.id, f"{self.round}|{step}"))

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Every run that may work on this round."""
        return (self.run_id, *(self.step_run_id(step) for step in STEPS))


_COLUMNS: Final = tuple(field.name for field in fields(Issue))


@dataclass(frozen=True, slots=True)
class Begun:
    """An issue, and whether this run is the one that sends its chain; else `why` it is not."""

    issue: Issue
    ours: bool
    why: Literal["", "busy", "sent", "skipped"] = ""


def begin(conn: Connection, definition: Definition, period: Period, run_id: str) -> Begun:
    """The issue of a period for the run that asks: made, resumed if that run began it, begun again if it had failed.

    Two at once wait for one another; one of them gets it.
    """
    now = utc_now()
    values = {
        "id": uuid4(),
        "report_id": definition.id,
        "report": definition.name,
        "period_start": period.start,
        "period_end": period.end,
        "state": "begun",
        "run_id": run_id,
        "begun_at": now,
        "changed_at": now,
    }
    conn.execute(pg_insert(report_issues).values(values).on_conflict_do_nothing(constraint="report_issues_period"))
    ours = (
        (report_issues.c.report_id == definition.id)
        & (report_issues.c.period_start == period.start)
        & (report_issues.c.period_end == period.end)
    )
    issue = _issue(conn.execute(select(report_issues).where(ours).with_for_update()).mappings().one())
    if issue.cleaned_at is None:
        return Begun(issue, issue.run_id == run_id, "" if issue.run_id == run_id else "busy")
    if issue.state != "failed":
        return Begun(issue, ours=False, why="sent" if issue.state == "sent" else "skipped")
    return Begun(_again(conn, issue, run_id), ours=True)


def _again(conn: Connection, issue: Issue, run_id: str) -> Issue:
    """Another round: what was refused or failed is tried again, what was sent or may have been is not."""
    deliveries = report_deliveries.c
    open_again = (deliveries.issue_id == issue.id) & deliveries.state.in_(("refused", "failed"))
    conn.execute(update(report_deliveries).where(open_again).values(state="pending", error=None, changed_at=utc_now()))
    conn.execute(report_deliveries.delete().where(deliveries.issue_id == issue.id, deliveries.channel == "owner"))
    # Who did not get it yet gets the same figures, as long as they are kept.
    kept = _kept(conn, issue)
    values = {
        "state": "rendered" if kept else "begun",
        "files": issue.files if kept else None,
        "round": issue.round + 1,
        "run_id": run_id,
        "reason": None,
        "begun_at": utc_now(),
        "changed_at": utc_now(),
        "cleaned_at": None,
    }
    changed = update(report_issues).where(report_issues.c.id == issue.id).values(values).returning(report_issues)
    return _issue(conn.execute(changed).mappings().one())


def _kept(conn: Connection, issue: Issue) -> bool:
    """Whether the issue has files, and all of them stay for another round."""
    wanted = {UUID(file["artifact"]) for file in issue.files or ()}
    stays = or_(artifacts.c.expires_at.is_(None), artifacts.c.expires_at > utc_now() + _A_ROUND)
    count = select(func.count()).where(artifacts.c.id.in_(wanted), stays)
    return bool(wanted) and conn.execute(count).scalar_one() == len(wanted)


def begun_by(conn: Connection, report_id: UUID, run_id: str) -> Issue | None:
    """The issue that a run began or resumed, if it did."""
    query = select(report_issues).where(report_issues.c.report_id == report_id, report_issues.c.run_id == run_id)
    row = conn.execute(query.limit(1)).mappings().one_or_none()
    return None if row is None else _issue(row)


def get(conn: Connection, issue_id: str | UUID) -> Issue:
    """The issue of this id. Raises NotFoundError."""
    try:
        wanted = UUID(str(issue_id))
    except ValueError:
        raise NotFoundError("issue", str(issue_id)[:80]) from None
    row = conn.execute(select(report_issues).where(report_issues.c.id == wanted)).mappings().one_or_none()
    if row is None:
        raise NotFoundError("issue", str(wanted), "It was removed meanwhile.")
    return _issue(row)


def of_report(conn: Connection, report_id: UUID, limit: int) -> list[Issue]:
    """The latest issues of a report, the newest period first."""
    query = select(report_issues).where(report_issues.c.report_id == report_id)
    rows = conn.execute(query.order_by(report_issues.c.period_start.desc()).limit(limit)).mappings()
    return [_issue(row) for row in rows]


def still_open(conn: Connection, before: datetime, limit: int, after: Issue | None = None) -> list[Issue]:
    """Issues whose steps are not over, and that nothing has touched since then: a page, the one after an issue's."""
    table = report_issues.c
    query = select(report_issues).where(table.cleaned_at.is_(None), table.changed_at < before)
    if after is not None:
        query = query.where(tuple_(table.changed_at, table.id) > (after.changed_at, after.id))
    return [_issue(row) for row in conn.execute(query.order_by(table.changed_at, table.id).limit(limit)).mappings()]


def touch(conn: Connection, issue: Issue) -> None:
    """Put an open issue behind the others that wait to be ended."""
    ours = (report_issues.c.id == issue.id) & report_issues.c.cleaned_at.is_(None)
    conn.execute(update(report_issues).where(ours).values(changed_at=utc_now()))


def move(conn: Connection, issue: Issue, to: State, **values: Any) -> bool:
    """The issue in its next state; False if another execution of the step has moved it already."""
    ours = (
        (report_issues.c.id == issue.id)
        & (report_issues.c.state == issue.state)
        & (report_issues.c.round == issue.round)
        & report_issues.c.cleaned_at.is_(None)
    )
    changed = update(report_issues).where(ours).values(state=to, changed_at=utc_now(), **values)
    return conn.execute(changed).rowcount == 1


def note(conn: Connection, issue: Issue, reason: str) -> None:
    """Keep why the last attempt of a step failed."""
    ours = (report_issues.c.id == issue.id) & report_issues.c.cleaned_at.is_(None)
    conn.execute(update(report_issues).where(ours).values(reason=reason[:_REASON_CHARS], changed_at=utc_now()))


def close(conn: Connection, issue: Issue) -> Issue:
    """The issue with all its steps over: failed, if it came to no other end. Closing twice is once."""
    table = report_issues.c
    ours = (table.id == issue.id) & (table.round == issue.round) & table.cleaned_at.is_(None)
    unfinished = ours & table.state.not_in(OVER)
    conn.execute(update(report_issues).where(unfinished).values(state="failed", changed_at=utc_now()))
    conn.execute(update(report_issues).where(ours).values(cleaned_at=utc_now(), data=None))
    return get(conn, issue.id)


def remove_of(conn: Connection, report_id: UUID) -> None:
    """Take a report's issues away, with their deliveries."""
    conn.execute(report_issues.delete().where(report_issues.c.report_id == report_id))


def _issue(row: RowMapping) -> Issue:
    return Issue(**{name: row[name] for name in _COLUMNS})
