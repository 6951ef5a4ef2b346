"""What people stop: runs that are cancelled, queues that are paused. And runs that expire, found by when they do."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0008"
down_revision = "0007"

_STATEMENTS: Final = (
    """
    CREATE TABLE {schema}.cancellations (
        run_id text PRIMARY KEY,
        at timestamptz NOT NULL,
        who text NOT NULL,
        reason text NOT NULL,
        hard boolean NOT NULL
    )
    """,
    """
    COMMENT ON TABLE {schema}.cancellations IS
        'Runs that are to end as cancelled. Forgotten two days after the order, once the run has ended.'
    """,
    "COMMENT ON COLUMN {schema}.cancellations.reason IS 'what the end of the run says'",
    "COMMENT ON COLUMN {schema}.cancellations.hard IS 'its body is given no time'",
    """
    CREATE TABLE {schema}.queue_pauses (
        queue text PRIMARY KEY,
        since timestamptz NOT NULL,
        who text NOT NULL,
        reason text
    )
    """,
    "COMMENT ON TABLE {schema}.queue_pauses IS 'Queues from which no worker takes anything.'",
    "CREATE INDEX runs_expiring ON {schema}.runs (expires) WHERE ended_at IS NULL AND expires IS NOT NULL",
)


def upgrade() -> None:
    """Make the tables and the index."""
    schema = quoted(str(context.get_context().version_table_schema))
    for statement in _STATEMENTS:
        op.execute(statement.replace("{schema}", schema))
