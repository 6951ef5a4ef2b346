"""A report's steps, called one after another as a worker would."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Final, cast

from beatline.task.context import RunContext
from beatline_tasks.report import deliveries, issues
from beatline_tasks.report.fetching import fetch
from beatline_tasks.report.issues import Issue
from beatline_tasks.report.period import period_before
from beatline_tasks.report.rendering import render
from beatline_tasks.report.spec import Report
from beatline_tasks.report.steps import run_step

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AT: Final = datetime(2026, 12, 1, 5, tzinfo=UTC)
RUN: Final = RunContext("run-1", 1, 1, "report.test", "report", None, AT)


def begin(installation: Installation, definition: Definition, run_id: str = "run-1") -> issues.Begun:
    """The issue for November 2026."""
    report = Report.model_validate(dict(definition.spec))
    with installation.engine.begin() as conn:
        return issues.begin(conn, definition, period_before(AT, report.period, report.zone), run_id)


def step(installation: Installation, issue: Issue, awaited: str, work: Any) -> dict[str, Any]:
    """Run one step."""
    return run_step(installation, str(issue.id), RUN, awaited, work)


def through(installation: Installation, definition: Definition) -> Issue:
    """The issue, fetched and rendered."""
    issue = begin(installation, definition).issue
    step(installation, issue, "begun", fetch)
    step(installation, issue, "fetched", render)
    return current(installation, issue)


def current(installation: Installation, issue: Issue) -> Issue:
    """The issue as it is now."""
    with installation.engine.connect() as conn:
        return issues.get(conn, issue.id)


def states(installation: Installation, issue: Issue) -> dict[str, str]:
    """What became of each recipient."""
    with installation.engine.connect() as conn:
        return {row.recipient: row.state for row in deliveries.of_issue(conn, issue.id)}


def attachments(message: EmailMessage) -> dict[str, bytes]:
    """The attached files by name."""
    return {
        str(part.get_filename()): cast("bytes", part.get_payload(decode=True)) for part in message.iter_attachments()
    }
