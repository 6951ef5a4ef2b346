"""Artifacts: stored files, found by their content."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0002"
down_revision = "0001"

_TABLES: Final = (
    """
    CREATE TABLE {schema}.artifact_files (
        sha256 text PRIMARY KEY,
        size_bytes bigint NOT NULL,
        store text NOT NULL,
        touched_at timestamptz NOT NULL,
        stored_at timestamptz
    )
    """,
    "CREATE INDEX artifact_files_touched ON {schema}.artifact_files (touched_at)",
    """
    CREATE TABLE {schema}.artifacts (
        id uuid PRIMARY KEY,
        sha256 text NOT NULL CONSTRAINT artifacts_file REFERENCES {schema}.artifact_files (sha256),
        name text NOT NULL,
        content_type text NOT NULL,
        family text NOT NULL,
        run_id text,
        created_at timestamptz NOT NULL,
        expires_at timestamptz
    )
    """,
    "CREATE INDEX artifacts_sha256 ON {schema}.artifacts (sha256)",
    "CREATE INDEX artifacts_expires ON {schema}.artifacts (expires_at) WHERE expires_at IS NOT NULL",
)

_COMMENTS: Final = {
    "TABLE {schema}.artifact_files": "A stored file, found by its content. Its row is committed before the file is "
    "there, so none is forgotten.",
    "COLUMN {schema}.artifact_files.store": "folder, or the s3:// address it is in",
    "COLUMN {schema}.artifact_files.touched_at": "when it was last written; without a name it stays a day",
    "COLUMN {schema}.artifact_files.stored_at": "null: being written, or its writer died",
    "TABLE {schema}.artifacts": "A name for a stored file; several may name the same.",
    "COLUMN {schema}.artifacts.name": "as people see it, made safe",
    "COLUMN {schema}.artifacts.expires_at": "null: it stays",
}


def upgrade() -> None:
    """Make the tables."""
    schema = quoted(str(context.get_context().version_table_schema))
    for statement in _TABLES:
        op.execute(statement.replace("{schema}", schema))
    for what, comment in _COMMENTS.items():
        op.execute(f"COMMENT ON {what.replace('{schema}', schema)} IS '{comment.replace(chr(39), chr(39) * 2)}'")
