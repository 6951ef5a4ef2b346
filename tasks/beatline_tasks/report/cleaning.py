"""The last step, whatever failed before: the rows go, the issue is over, and the owner hears of what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import Connection

from beatline.artifacts import ArtifactStore
from beatline.definitions import store as definitions
from beatline.definitions.specs import open_spec
from beatline.errors import ServiceError, TransientError
from beatline.failpoints import reach
from beatline.ledger.database import guarded, sql
from beatline.logs import get_logger
from beatline_tasks.report import deliveries, issues
from beatline_tasks.report.deliveries import Delivery
from beatline_tasks.report.generating import KIND
from beatline_tasks.report.issues import OVER, Issue
from beatline_tasks.report.spec import Report

if TYPE_CHECKING:
    from beatline.installation import Installation

SILENT: Final = "its worker died, and left no reason."
_WHY: Final = """
    SELECT coalesce(r.reason, r.error) FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id
    WHERE d.id = ANY(:ids) AND r.state = ANY('{failed,dead,cancelled}') ORDER BY r.ended_at DESC LIMIT 1
"""

log = get_logger(__name__)


def clean_up(installation: Installation, issue_id: str, *, patient: bool = True) -> dict[str, Any]:
    """End the issue. Running twice is once; the owner gets one notice a round.

    Raises TransientError if the notice could not be sent and may be later, unless it is not `patient` any more.
    """
    with guarded(installation.settings):
        with installation.engine.begin() as conn:
            issue = _with_reason(conn, issues.get(conn, issue_id))
        if issue.cleaned_at is not None:
            return {"issue": str(issue.id), "already": issue.state}
        rows = deliveries.settle(installation.engine, issue.id, issue.reason or SILENT)
        problems = problems_of(issue, rows)
        # The notice goes first: a crash after it finds its row, a crash before it finds the issue open.
        told = _tell_owner(installation, issue, problems, patient=patient) if problems else None
        reach("report.told")
        with installation.engine.begin() as conn:
            _remove_rows(conn, installation, issue)
            issue = issues.close(conn, issue)
    reach("report.cleaned")
    said: dict[str, Any] = {"issue": str(issue.id), "state": issue.state}
    if told is not None:
        said["owner"] = told
    log.info("report_cleaned", report=issue.report, **said)
    return said


def _with_reason(conn: Connection, issue: Issue) -> Issue:
    """A step whose worker died has noted nothing: then history has the reason."""
    if issue.cleaned_at is not None or issue.reason is not None or issue.state in OVER:
        return issue
    why: str | None = conn.execute(sql(conn, _WHY), {"ids": list(issue.run_ids)}).scalar()
    if not why:
        return issue
    issues.note(conn, issue, why)
    return issues.get(conn, issue.id)


def problems_of(issue: Issue, rows: list[Delivery]) -> list[str]:
    """What the owner has to know, a line each; nothing if all went well."""
    problems: list[str] = []
    undelivered = [row for row in rows if row.channel != "owner" and row.state != "sent"]
    if issue.state not in OVER and not undelivered:
        where = {"begun": "its data was not fetched", "fetched": "it was not rendered"}.get(
            issue.state, "it was not sent"
        )
        problems.append(f"{where[:1].upper()}{where[1:]}: {issue.reason or SILENT}")
    problems += [
        f"{row.channel} to {row.recipient}: {row.state}: {row.error or issue.reason or SILENT}" for row in undelivered
    ]
    return problems


def _tell_owner(installation: Installation, issue: Issue, problems: list[str], *, patient: bool) -> str:
    """Send the owner a notice; in words what became of it. One that can never be sent stops nothing, whatever it raises."""
    from beatline_tasks.report.notice import send_notice

    try:
        with guarded(installation.settings):
            with installation.engine.connect() as conn:
                definition = definitions.get(conn, KIND, str(issue.report_id))
            report = open_spec(installation, definition, Report)
            return send_notice(installation, issue, report, problems)
    except Exception as exc:
        if isinstance(exc, TransientError | ServiceError) and patient:
            raise
        why = str(exc) or type(exc).__name__
        log.exception("report_owner_not_told", report=issue.report, issue=str(issue.id), error=why)
        return f"not told: {why}"


def _remove_rows(conn: Any, installation: Installation, issue: Issue) -> None:
    store = ArtifactStore.of(installation)
    for known in (issue.data or {}).values():
        store.remove(conn, UUID(known["artifact"]))
