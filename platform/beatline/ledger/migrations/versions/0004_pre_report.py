"""Reports: issues of a report and their deliveries."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0004"
down_revision = "0003"

_TABLES: Final = (
    """
    CREATE TABLE {schema}.report_issues (
        id uuid PRIMARY KEY,
        report_id uuid NOT NULL,
        report text NOT NULL,
        period_start timestamptz NOT NULL,
        period_end timestamptz NOT NULL,
        state text NOT NULL,
        round integer NOT NULL DEFAULT 1,
        run_id text NOT NULL,
        data jsonb,
        files jsonb,
        reason text,
        begun_at timestamptz NOT NULL,
        changed_at timestamptz NOT NULL,
        cleaned_at timestamptz,
        CONSTRAINT report_issues_period UNIQUE (report_id, period_start, period_end),
        CONSTRAINT report_issues_state CHECK (state IN ('begun', 'fetched', 'rendered', 'sent', 'skipped', 'failed')),
        CONSTRAINT report_issues_order CHECK (period_start < period_end)
    )
    """,
    "CREATE INDEX report_issues_open ON {schema}.report_issues (changed_at) WHERE cleaned_at IS NULL",
    """
    CREATE TABLE {schema}.report_deliveries (
        id uuid PRIMARY KEY,
        issue_id uuid NOT NULL CONSTRAINT report_deliveries_issue
            REFERENCES {schema}.report_issues (id) ON DELETE CASCADE,
        channel text NOT NULL,
        recipient text NOT NULL,
        state text NOT NULL,
        message_id text,
        provider_id text,
        attempts integer NOT NULL DEFAULT 0,
        error text,
        created_at timestamptz NOT NULL,
        changed_at timestamptz NOT NULL,
        CONSTRAINT report_deliveries_once UNIQUE (issue_id, channel, recipient),
        CONSTRAINT report_deliveries_channel CHECK (channel IN ('store', 'webhook', 'email', 'owner')),
        CONSTRAINT report_deliveries_state CHECK
            (state IN ('pending', 'sending', 'sent', 'refused', 'failed', 'unknown'))
    )
    """,
)

_COMMENTS: Final = {
    "COLUMN {schema}.report_issues.report": "its name when the issue was begun",
    "COLUMN {schema}.report_issues.round": "how often it was begun",
    "COLUMN {schema}.report_issues.run_id": "the run that began this round; the ids of its steps follow from it",
    "COLUMN {schema}.report_issues.data": "query → artifact, rows, cut",
    "COLUMN {schema}.report_issues.files": "role, artifact, name and size of each file",
    "COLUMN {schema}.report_issues.reason": "why it is not sent, or why the last attempt of a step failed",
    "COLUMN {schema}.report_issues.cleaned_at": "null: its steps are not over",
    "TABLE {schema}.report_deliveries": "At most one mail per issue and recipient: unknown means that it may have gone "
    "out, and is never sent again.",
    "COLUMN {schema}.report_deliveries.message_id": "the mail's Message-ID: the same however often it is tried",
    "COLUMN {schema}.report_deliveries.provider_id": "what the receiving server said when it accepted",
}


def upgrade() -> None:
    """Make the tables."""
    schema = quoted(str(context.get_context().version_table_schema))
    for statement in _TABLES:
        op.execute(statement.replace("{schema}", schema))
    for what, comment in _COMMENTS.items():
        op.execute(f"COMMENT ON {what.replace('{schema}', schema)} IS '{comment.replace(chr(39), chr(39) * 2)}'")
