"""Applies the migrations: one transaction, one upgrade at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from beatline.clock import utc_today
from beatline.errors import ServiceError
from beatline.ledger import partitions
from beatline.ledger.database import (
    LOCK_NOT_AVAILABLE,
    OLDEST_POSTGRES,
    current_revision,
    open_engine,
    place,
    refuse_newer,
    sql,
    sqlstate,
)
from beatline.ledger.migrations import HEAD, KNOWN

if TYPE_CHECKING:
    from beatline.settings import Settings


def run_migrations(settings: Settings) -> list[str]:
    """Migrate to HEAD and make partitions; what was done, a sentence each."""
    with open_engine(settings).begin() as conn:
        version = int((conn.dialect.server_version_info or (0,))[0])
        if version < OLDEST_POSTGRES:
            raise ServiceError(
                f"PostgreSQL at {place(settings)} is version {version}; Beatline needs {OLDEST_POSTGRES} or newer."
            )
        _one_at_a_time(conn, settings)
        before = current_revision(conn)
        refuse_newer(settings, before)
        done: list[str] = []
        for schema, mark in ((settings.database_schema, "{schema}"), (settings.data_schema, "{data}")):
            done += _make_schema(conn, settings, schema, mark)
        if before != HEAD:
            command.upgrade(_config(conn), "head")
            steps = KNOWN[KNOWN.index(before) + 1 :] if before else KNOWN
            done += [f"applied migration {step}" for step in steps]
        made = partitions.ensure(conn, utc_today(), behind=settings.history_days - 1)
        return done + [f"made partition {name}" for name in made]


def _one_at_a_time(conn: Connection, settings: Settings) -> None:
    conn.execute(text("SET LOCAL statement_timeout TO 0"))
    conn.execute(text("SET LOCAL lock_timeout TO '60s'"))
    try:
        conn.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
            {"name": f"beatline.upgrade:{settings.database_schema}"},
        )
    except DBAPIError as exc:
        if sqlstate(exc) != LOCK_NOT_AVAILABLE:
            raise
        raise ServiceError(
            f"Another `beatline db upgrade` has been working on {place(settings)} for a minute: wait for it to end."
        ) from exc


def _make_schema(conn: Connection, settings: Settings, schema: str, mark: str) -> list[str]:
    # Asked first, because CREATE SCHEMA IF NOT EXISTS wants the right to create even where the schema stands.
    if conn.execute(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": schema}).scalar():
        return []
    may = conn.execute(text("SELECT has_database_privilege(current_database(), 'CREATE')")).scalar()
    if not may:
        raise ServiceError(
            f"The database user may not create the schema {schema!r} in {place(settings)}: let its administrator run "
            f"`CREATE SCHEMA {schema} AUTHORIZATION <user>`, or grant CREATE on the database."
        )
    conn.execute(sql(conn, f"CREATE SCHEMA {mark}"))
    return [f"created schema {schema}"]


def _config(conn: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = conn
    return config
