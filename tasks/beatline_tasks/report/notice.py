"""The mail to a report's owner about what went wrong: recipients hear nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from beatline.clock import utc_now
from beatline.connections import get_connection
from beatline.errors import TransientError
from beatline_tasks.report import deliveries
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.issues import Issue
from beatline_tasks.report.mail import Letter, build
from beatline_tasks.report.post import post
from beatline_tasks.report.spec import Report
from beatline_tasks.report.template import fill

if TYPE_CHECKING:
    from beatline.connections import OpenConnection
    from beatline.installation import Installation

_MOST_LINES: Final = 100


def sender_of(connection: OpenConnection) -> str:
    """The address that mail over a connection comes from: its sender, else who logs in."""
    spec = connection.spec
    login = spec.login or ""
    return spec.sender or (login if "@" in login else f"beatline@{spec.host}")


def domain_of(sender: str) -> str:
    """What the Message-IDs of a sender end with. Raises ReportError if that is no domain."""
    domain = sender.rpartition("@")[2]
    try:
        return domain if domain.isascii() else domain.encode("idna").decode("ascii")
    except UnicodeError:
        raise ReportError(f"The sender {sender[:80]!r} is no mail address: correct its connection.") from None


def send_notice(installation: Installation, issue: Issue, report: Report, problems: list[str]) -> str:
    """Tell the owner, once a round; in words what became of that. Raises TransientError if it may go later."""
    owner = report.owner
    if owner is None:
        return "the report has no owner"
    connection = owner.connection or (report.email.connection if report.email else "")
    sender = sender_of(get_connection(installation, connection))
    rows = deliveries.prepare(installation.engine, issue.id, [("owner", owner.address)])
    [row] = deliveries.with_message_ids(installation.engine, rows, domain_of(sender))
    period = Figures(report.locale, report.zone).period(issue.period, report.period)
    letter = Letter(
        subject=fill("Not delivered as it should be: {title} ({period})", {"title": report.title, "period": period}),
        text=_text(issue, report, period, problems),
        html=None,
        pictures={},
        attachments=[],
    )
    # Each round has its own notice, and its own Message-ID: mail servers drop what they have seen.
    local, _, domain = (row.message_id or "<beatline@localhost>").strip("<>").partition("@")
    message_id = f"<{local}.{issue.round}@{domain}>"
    headers = {"X-Beatline-Report": issue.report, "X-Beatline-Issue": str(issue.id)}

    post(installation, connection, sender, [row], lambda _: build(
        letter, sender=sender, to=owner.address, message_id=message_id, at=utc_now(), headers=headers
    ))  # fmt: skip
    return _became(installation, issue.id, owner.address)


def _became(installation: Installation, issue_id: UUID, address: str) -> str:
    with installation.engine.connect() as conn:
        after = next(row for row in deliveries.of_issue(conn, issue_id) if row.channel == "owner"
                     and row.recipient == address)  # fmt: skip
    if after.state == "pending":
        raise TransientError(f"The owner could not be told: {after.error}")
    return f"{after.state}: {address}"


def _text(issue: Issue, report: Report, period: str, problems: list[str]) -> str:
    shown = problems[:_MOST_LINES]
    more = [f"… and {len(problems) - _MOST_LINES} more."] if len(problems) > _MOST_LINES else []
    return "\n".join(
        [
            f"The report {issue.report!r} ({report.title}) for {period} was not delivered as it should be.",
            "Its recipients were not told.",
            "",
            *(f"- {problem}" for problem in shown),
            *more,
            "",
            f"All deliveries:  beatline reports deliveries {issue.report}",
            f"Try it:          beatline reports check {issue.report}",
            f"The run:         beatline runs show {issue.run_id}",
            "",
            "Once the cause is mended, the next run for the same period sends to those who did not get it.",
            "",
        ]
    )
