"""Delayed runs, found by when they are due."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0007"
down_revision = "0006"

_INDEX: Final = "CREATE INDEX runs_due ON {schema}.runs (eta) WHERE state = 'delayed'"


def upgrade() -> None:
    """Make the index, on every partition."""
    op.execute(_INDEX.replace("{schema}", quoted(str(context.get_context().version_table_schema))))
