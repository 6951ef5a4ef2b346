"""The tables of the family etl; migration 0003 makes them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from beatline.ledger.model import metadata

_time = DateTime(timezone=True)

loads = Table(
    "etl_loads",
    metadata,
    Column("number", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("loaded_at", _time, nullable=False),
    Column("watermark", JSONB, comment="field, value as text, type: the next load reads on from there"),
    Column("counts", JSONB, nullable=False),
    Index("etl_loads_run", "job_id", "run_id", unique=True),
    Index("etl_loads_latest", "job_id", "target", "number"),
    comment="What was loaded, committed with the rows: a run that stands here is not loaded again.",
)

rejected = Table(
    "etl_rejected",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("at", _time, nullable=False),
    Column("reason", Text, nullable=False),
    Column("row", JSONB, nullable=False, comment="cut if it is long"),
    Index("etl_rejected_run", "job_id", "run_id"),
    Index("etl_rejected_at", "at"),
)

archives = Table(
    "etl_archives",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("job", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("day", Date, nullable=False, comment="in the job's zone"),
    Column("part", Integer, nullable=False, comment="from 1; rows that came late are in a further file"),
    Column("state", Text, nullable=False),
    Column("artifact_id", Uuid),
    Column("rows", BigInteger),
    Column("sha256", Text, comment="of the file, as it was read back"),
    Column("run_id", Text, nullable=False),
    Column("at", _time, nullable=False),
    Column("reason", Text, comment="why it failed: the rows are where they were"),
    CheckConstraint("state IN ('archived','failed')", name="etl_archives_state"),
    CheckConstraint(
        "(state = 'archived') = (artifact_id IS NOT NULL AND rows IS NOT NULL AND sha256 IS NOT NULL)",
        name="etl_archives_archived",
    ),
    Index(
        "etl_archives_file",
        "job_id",
        "dataset",
        "day",
        "part",
        unique=True,
        postgresql_where=text("state = 'archived'"),
    ),
    comment="Each file of archived rows: written, read back, and then the rows deleted, in one transaction.",
)
