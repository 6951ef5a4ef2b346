"""The tables of reports: an issue is a report for one period, a delivery is one issue to one recipient."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from beatline.ledger.model import metadata

_time = DateTime(timezone=True)

ISSUE_STATES: Final = ("begun", "fetched", "rendered", "sent", "skipped", "failed")
DELIVERY_STATES: Final = ("pending", "sending", "sent", "refused", "failed", "unknown")
CHANNELS: Final = ("store", "webhook", "email", "owner")


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words)


report_issues = Table(
    "report_issues",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("report_id", Uuid, nullable=False),
    Column("report", Text, nullable=False, comment="its name when the issue was begun"),
    Column("period_start", _time, nullable=False),
    Column("period_end", _time, nullable=False),
    Column("state", Text, nullable=False),
    Column("round", Integer, nullable=False, server_default=text("1"), comment="how often it was begun"),
    Column(
        "run_id", Text, nullable=False, comment="the run that began this round; the ids of its steps follow from it"
    ),
    Column("data", JSONB, comment="query → artifact, rows, cut"),
    Column("files", JSONB, comment="role, artifact, name and size of each file"),
    Column("reason", Text, comment="why it is not sent, or why the last attempt of a step failed"),
    Column("begun_at", _time, nullable=False),
    Column("changed_at", _time, nullable=False),
    Column("cleaned_at", _time, comment="null: its steps are not over"),
    UniqueConstraint("report_id", "period_start", "period_end", name="report_issues_period"),
    CheckConstraint(f"state IN ({_listed(ISSUE_STATES)})", name="report_issues_state"),
    CheckConstraint("period_start < period_end", name="report_issues_order"),
    Index("report_issues_open", "changed_at", postgresql_where=text("cleaned_at IS NULL")),
)

report_deliveries = Table(
    "report_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column(
        "issue_id",
        Uuid,
        ForeignKey(report_issues.c.id, ondelete="CASCADE", name="report_deliveries_issue"),
        nullable=False,
    ),
    Column("channel", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("message_id", Text, comment="the mail's Message-ID: the same however often it is tried"),
    Column("provider_id", Text, comment="what the receiving server said when it accepted"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    Column("created_at", _time, nullable=False),
    Column("changed_at", _time, nullable=False),
    UniqueConstraint("issue_id", "channel", "recipient", name="report_deliveries_once"),
    CheckConstraint(f"channel IN ({_listed(CHANNELS)})", name="report_deliveries_channel"),
    CheckConstraint(f"state IN ({_listed(DELIVERY_STATES)})", name="report_deliveries_state"),
    comment="At most one mail per issue and recipient: unknown means that it may have gone out, and is never sent again.",
)
