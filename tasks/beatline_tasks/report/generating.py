"""One run of a report: its issue for the period, and the chain of steps that makes and sends it.

A chain is sent under run ids that follow from the issue, so that one sent twice, after a crash, runs once. If a step
fails for good, its error call-back is the clean-up, under the same run id as at the chain's end; if a step dies
without a word, `sweeping` ends the issue.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from celery import chain, current_app
from sqlalchemy import Connection

from beatline.clock import utc_now
from beatline.definitions import Definition
from beatline.definitions.opening import open_definition
from beatline.failpoints import reach
from beatline.ledger.database import guarded, sql
from beatline.logs import get_logger
from beatline_tasks.report import issues
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.issues import STEPS, Issue
from beatline_tasks.report.period import Period, period_before, read_moment
from beatline_tasks.report.spec import Report

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.task.context import RunContext

KIND: Final = "report"
_ACCEPTED: Final = """
    SELECT r.accepted_at FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id WHERE d.id = :id
"""


def open_report(installation: Installation, name_or_id: object) -> tuple[Definition, Report]:
    """The report of this name or id, secrets in place; raises as `open_definition` does."""
    return open_definition(installation, KIND, name_or_id, Report, error=ReportError)


def generate(installation: Installation, report_id: str, run: RunContext, at: str | None) -> dict[str, Any]:
    """Begin the issue of the period before the run's slot (or before `at`) and send its chain.

    The result says which issue, and why nothing was begun if that is so: `busy`, `sent` or `skipped` already.
    """
    with guarded(installation.settings):
        definition, report = open_report(installation, report_id)
        with installation.engine.begin() as conn:
            period = _period(conn, definition, report, run, read_moment(at) or run.slot)
            begun = issues.begin(conn, definition, period, run.run_id)
    reach("report.begun")
    issue = begun.issue
    if begun.ours:
        send_chain(issue)
        reach("report.chained")
    said = {
        "issue": str(issue.id),
        "period_start": period.start.isoformat(),
        "period_end": period.end.isoformat(),
        "round": issue.round,
        **({"already": begun.why} if begun.why else {}),
    }
    get_logger(__name__).info("report_begun", report=definition.name, **said)
    return said


def _period(
    conn: Connection, definition: Definition, report: Report, run: RunContext, moment: datetime | None
) -> Period:
    """The period that a run is about: the same at each of its attempts, though midnight may pass between them."""
    if moment is None:
        begun = issues.begun_by(conn, definition.id, run.run_id)
        if begun is not None:
            return begun.period
        # History may be a second behind, and then this is the first attempt.
        accepted: datetime | None = conn.execute(sql(conn, _ACCEPTED), {"id": run.run_id}).scalar()
        moment = accepted or utc_now()
    return period_before(moment, report.period, report.zone)


def send_chain(issue: Issue) -> None:
    """Queue the steps of an issue's round; sending them again changes nothing."""
    fetch, render, send, clean_up = (
        current_app.signature(f"report.{step}", args=(str(issue.id),), immutable=True, task_id=issue.step_run_id(step))
        for step in STEPS
    )
    for step in (fetch, render, send):
        step.on_error(clean_up.clone())
    chain(fetch, render, send, clean_up).apply_async()
