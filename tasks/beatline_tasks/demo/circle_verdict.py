"""Whether the mail came round: what the second half of the demo lost or doubled. Pure: counts in, verdict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from beatline_tasks.demo.months import Month, same


@dataclass(frozen=True, slots=True)
class Circle:
    """What was found when the mail had come to rest."""

    expected: Mapping[date, Month]
    """The figures as they come out of the feed's own file."""
    months: Mapping[date, Month]
    posted: Mapping[str, int]
    """Messages in each mailbox, as the IMAP server counts them."""
    deliveries: Mapping[str, int]
    """By channel and state."""
    messages: Mapping[str, int]
    """Rows of messages by state."""
    on_shelf: Mapping[str, str]
    """The report's files: name → SHA-256."""
    attached: Sequence[str]
    """SHA-256 of what polling took out of the messages."""
    checked: Mapping[str, int]
    """What the mailbox's task read: SHA-256 of a workbook → rows in it."""
    polls: int


@dataclass(frozen=True, slots=True)
class CircleVerdict:
    """What is missing and what is too much of months and mails."""

    lost: int
    doubled: int
    problems: Sequence[str]


def judge_circle(circle: Circle) -> CircleVerdict:
    """Count; every finding is also told in a sentence."""
    wrong = [m for m, month in circle.expected.items() if m not in circle.months or not same(circle.months[m], month)]
    strange = [month for month in circle.months if month not in circle.expected]
    posted, stored = sum(circle.posted.values()), sum(circle.messages.values())
    workbooks = {digest for name, digest in circle.on_shelf.items() if name.endswith(".xlsx")}
    verified = any(circle.checked.get(digest) == len(circle.expected) for digest in workbooks & set(circle.attached))
    unprocessed = stored - circle.messages.get("processed", 0)
    unsent = sum(number for what, number in circle.deliveries.items() if not what.endswith(" sent"))
    told = [
        (len(wrong), "{} months are missing or not as the days make them"),
        (len(strange), "{} months are in the table that no day belongs to"),
        (int(posted == 0), "The report lies in no mailbox"),
        (max(0, posted - stored), "{} mails were not found by polling"),
        (unprocessed, "{} messages were not processed"),
        (unsent, "{} deliveries were not sent"),
        (int(not verified), "No workbook came back as it was made, with a row for each month"),
    ]
    doubled = [
        (max(0, posted - 1), "{} mails more than one lie in the mailboxes"),
        (max(0, stored - posted), "{} messages were stored twice"),
    ]
    return CircleVerdict(
        lost=sum(number for number, _ in told),
        doubled=sum(number for number, _ in doubled),
        problems=[f"{sentence.format(number)}." for number, sentence in (*told, *doubled) if number],
    )
