"""Tokens of the admin API, and the audit found by what it is about."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0006"
down_revision = "0005"

_STATEMENTS: Final = (
    """
    CREATE TABLE {schema}.tokens (
        id uuid PRIMARY KEY,
        name text NOT NULL CONSTRAINT tokens_name UNIQUE,
        prefix text NOT NULL CONSTRAINT tokens_prefix UNIQUE,
        hash bytea NOT NULL,
        created_at timestamptz NOT NULL,
        created_by text NOT NULL,
        expires_at timestamptz NOT NULL,
        last_used_at timestamptz,
        CONSTRAINT tokens_hash CHECK (octet_length(hash) = 32)
    )
    """,
    "COMMENT ON TABLE {schema}.tokens IS 'Who may use the admin API; the tokens themselves are kept nowhere.'",
    "COMMENT ON COLUMN {schema}.tokens.prefix IS 'the part of the token that finds its row'",
    "COMMENT ON COLUMN {schema}.tokens.hash IS 'SHA-256 of the whole token'",
    "COMMENT ON COLUMN {schema}.tokens.last_used_at IS 'to the minute'",
    "CREATE INDEX audit_about ON {schema}.audit (kind, name)",
)


def upgrade() -> None:
    """Make the table and the index."""
    schema = quoted(str(context.get_context().version_table_schema))
    for statement in _STATEMENTS:
        op.execute(statement.replace("{schema}", schema))
