"""ETL: what jobs loaded, refused and archived."""

from __future__ import annotations

from typing import Final

from alembic import context, op

from beatline.ledger.database import quoted

revision = "0003"
down_revision = "0002"

_STATEMENTS: Final = (
    """
    CREATE TABLE {schema}.etl_loads (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id uuid NOT NULL,
        run_id text NOT NULL,
        target text NOT NULL,
        loaded_at timestamptz NOT NULL,
        watermark jsonb,
        counts jsonb NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX etl_loads_run ON {schema}.etl_loads (job_id, run_id)",
    "CREATE INDEX etl_loads_latest ON {schema}.etl_loads (job_id, target, number)",
    """
    CREATE TABLE {schema}.etl_rejected (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id uuid NOT NULL,
        run_id text NOT NULL,
        at timestamptz NOT NULL,
        reason text NOT NULL,
        row jsonb NOT NULL
    )
    """,
    "CREATE INDEX etl_rejected_run ON {schema}.etl_rejected (job_id, run_id)",
    "CREATE INDEX etl_rejected_at ON {schema}.etl_rejected (at)",
    """
    CREATE TABLE {schema}.etl_archives (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id uuid NOT NULL,
        job text NOT NULL,
        dataset text NOT NULL,
        day date NOT NULL,
        part integer NOT NULL,
        state text NOT NULL,
        artifact_id uuid,
        rows bigint,
        sha256 text,
        run_id text NOT NULL,
        at timestamptz NOT NULL,
        reason text,
        CONSTRAINT etl_archives_state CHECK (state IN ('archived', 'failed')),
        CONSTRAINT etl_archives_archived CHECK
            ((state = 'archived') = (artifact_id IS NOT NULL AND rows IS NOT NULL AND sha256 IS NOT NULL))
    )
    """,
    """
    CREATE UNIQUE INDEX etl_archives_file ON {schema}.etl_archives (job_id, dataset, day, part)
        WHERE state = 'archived'
    """,
)

_COMMENTS: Final = {
    "TABLE {schema}.etl_loads": (
        "What was loaded, committed with the rows: a run that stands here is not loaded again."
    ),
    "COLUMN {schema}.etl_loads.watermark": "field, value as text, type: the next load reads on from there",
    "COLUMN {schema}.etl_rejected.row": "cut if it is long",
    "TABLE {schema}.etl_archives": (
        "Each file of archived rows: written, read back, and then the rows deleted, in one transaction."
    ),
    "COLUMN {schema}.etl_archives.day": "in the job''s zone",
    "COLUMN {schema}.etl_archives.part": "from 1; rows that came late are in a further file",
    "COLUMN {schema}.etl_archives.sha256": "of the file, as it was read back",
    "COLUMN {schema}.etl_archives.reason": "why it failed: the rows are where they were",
}


def upgrade() -> None:
    """Make the tables."""
    schema = quoted(str(context.get_context().version_table_schema))
    for statement in _STATEMENTS:
        op.execute(statement.replace("{schema}", schema))
    for what, comment in _COMMENTS.items():
        op.execute(f"COMMENT ON {what.replace('{schema}', schema)} IS '{comment}'")
