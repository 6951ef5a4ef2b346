"""Run by Alembic: migrates on the connection, and into the schema, that `migrations.run` hands over."""

from __future__ import annotations

from alembic import context

from beatline.ledger.database import schema_of
from beatline.ledger.migrations import VERSION_TABLE
from beatline.ledger.model import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=schema_of(connection),
)
with context.begin_transaction():
    context.run_migrations()
