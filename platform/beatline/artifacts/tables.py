"""The tables of artifacts, as SQLAlchemy Core sees them; migration 0002 makes them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, Index, Table, Text, Uuid, text

from beatline.ledger.model import metadata

_time: Final = DateTime(timezone=True)

artifact_files = Table(
    "artifact_files",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("store", Text, nullable=False, comment="folder, or the s3:// address it is in"),
    Column("touched_at", _time, nullable=False, comment="when it was last written; without a name it stays a day"),
    Column("stored_at", _time, comment="null: being written, or its writer died"),
    Index("artifact_files_touched", "touched_at"),
    comment="A stored file, found by its content. Its row is committed before the file is there, so none is forgotten.",
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sha256", Text, ForeignKey(artifact_files.c.sha256, name="artifacts_file"), nullable=False),
    Column("name", Text, nullable=False, comment="as people see it, made safe"),
    Column("content_type", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("run_id", Text),
    Column("created_at", _time, nullable=False),
    Column("expires_at", _time, comment="null: it stays"),
    Index("artifacts_sha256", "sha256"),
    Index("artifacts_expires", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    comment="A name for a stored file; several may name the same.",
)
