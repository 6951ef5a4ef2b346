"""What every step does around its work: find the issue and its report, and keep why an attempt failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from beatline.definitions import Definition
from beatline.errors import BeatlineError
from beatline.ledger.database import guarded
from beatline.logs import get_logger
from beatline_tasks.report import issues
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.generating import open_report
from beatline_tasks.report.issues import Issue
from beatline_tasks.report.spec import Report

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.task.context import RunContext

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """What a step works on."""

    installation: Installation
    issue: Issue
    definition: Definition
    report: Report
    run: RunContext

    @property
    def figures(self) -> Figures:
        """How this report writes its values."""
        return Figures(self.report.locale, self.report.zone)


def run_step(
    installation: Installation,
    issue_id: str,
    run: RunContext,
    awaited: str,
    work: Callable[[Work], dict[str, Any]],
) -> dict[str, Any]:
    """Do a step's work, if the issue is where the step begins; else nothing, as another execution has done it.

    Raises what the work raises, once the issue has the reason.
    """
    with guarded(installation.settings):
        with installation.engine.connect() as conn:
            issue = issues.get(conn, issue_id)
        if issue.state != awaited or issue.cleaned_at is not None:
            return {"issue": str(issue.id), "already": issue.state}
        try:
            definition, report = open_report(installation, str(issue.report_id))
            said = work(Work(installation, issue, definition, report, run))
        except Exception as exc:
            _keep(installation, issue, exc)
            raise
    result = {"issue": str(issue.id), **said}
    log.info("report_step", step=run.task, report=issue.report, **result)
    return result


def _keep(installation: Installation, issue: Issue, exc: Exception) -> None:
    try:
        with installation.engine.begin() as conn:
            issues.note(conn, issue, str(exc) or type(exc).__name__)
    except (DBAPIError, BeatlineError):
        log.warning("report_reason_not_kept", report=issue.report, error=type(exc).__name__)


def retry_wait_s(installation: Installation, issue_id: str) -> float | None:
    """How long the report waits before a step is tried again; None if that cannot be told."""
    try:
        with guarded(installation.settings):
            with installation.engine.connect() as conn:
                issue = issues.get(conn, issue_id)
            return open_report(installation, str(issue.report_id))[1].retry_wait_s
    except (BeatlineError, DBAPIError):
        return None
