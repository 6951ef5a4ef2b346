"""The way into PostgreSQL: one engine a process, our schema's name in every statement, and the schema's version.

Alembic is imported by `upgrade` alone, and nothing here imports `sqlalchemy.orm`: workers start without both.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Connection, Engine, TextClause, column, create_engine, event, select, table, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from beatline.errors import SchemaError, ServiceError
from beatline.ledger.migrations import HEAD, KNOWN, VERSION_TABLE
from beatline.ledger.model import DATA_SCHEMA, SCHEMA

if TYPE_CHECKING:
    from beatline.settings import Settings

OLDEST_POSTGRES: Final = 14

_CONNECT: Final[Mapping[str, object]] = {
    "connect_timeout": 5,
    "fallback_application_name": "beatline",
    # A connection whose other side vanished is given up after about a minute, not after the kernel's hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
_SESSION: Final = """
    SET timezone TO 'UTC'; SET statement_timeout TO '300s'; SET lock_timeout TO '30s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""  # events leave Redis once they are committed here: a commit that a crash takes back would lose them
LOCK_NOT_AVAILABLE: Final = "55P03"
_UNDEFINED: Final = frozenset({"42P01", "3F000"})  # no such table, no such schema

_QUICK_S: Final = 2

_engines: dict[tuple[str, str, str, bool], Engine] = {}
_opening = threading.Lock()


def open_engine(settings: Settings, *, quick: bool = False) -> Engine:
    """The engine of these settings: one a process, and never a socket of the parent's after a fork.

    Connects when first used. Statements on `model`'s tables reach the schemas that the settings name. A `quick` one is
    for a single thread that would rather have no answer than wait: two seconds for a connection, and for a statement.
    """
    key = (settings.database_url, settings.database_schema, settings.data_schema, quick)
    with _opening:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = _create(settings, quick=quick)
        return engine


def _create(settings: Settings, *, quick: bool) -> Engine:
    engine = create_engine(
        settings.database_url,
        pool_size=1 if quick else 4,
        max_overflow=0 if quick else 16,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={**_CONNECT, **({"connect_timeout": _QUICK_S} if quick else {})},
        hide_parameters=True,  # arguments and sealed secrets stay out of tracebacks and logs
        execution_options={
            "schema_translate_map": {SCHEMA: settings.database_schema, DATA_SCHEMA: settings.data_schema}
        },
    )
    event.listen(engine, "connect", _start_session)
    if quick:
        event.listen(engine, "connect", _hurry)
    event.listen(engine, "handle_error", _leave_out_values)
    return engine


def _start_session(connection: Any, _record: object) -> None:
    # SET, not the start-up option: connection poolers refuse options they do not track.
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(_SESSION)
    connection.autocommit = False


def _hurry(connection: Any, _record: object) -> None:
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout TO '{_QUICK_S}s'")
    connection.autocommit = False


def _leave_out_values(context: ExceptionContext) -> None:
    # What PostgreSQL adds to its message repeats the row or, because psycopg2 fills parameters in, the statement.
    original: Any = context.original_exception
    said: str | None = getattr(getattr(original, "diag", None), "message_primary", None)
    if said is None:
        return
    hint: str | None = original.diag.message_hint
    original.args = (f"{said} ({hint})" if hint else said,)
    if context.sqlalchemy_exception is not None:
        kind = type(context.original_exception)
        context.sqlalchemy_exception.args = (f"({kind.__module__}.{kind.__qualname__}) {original.args[0]}",)


def _forget_parents_sockets() -> None:
    global _opening  # another thread may have held it when the process forked
    _opening = threading.Lock()
    for engine in _engines.values():
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_parents_sockets)


def sql(where: Settings | Connection | Engine, statement: str) -> TextClause:
    """Literal SQL with `{schema}` and `{data}` filled in as quoted names; other braces stay as they are."""
    if isinstance(where, Connection | Engine):
        names = cast("Mapping[str, str]", where.get_execution_options()["schema_translate_map"])
        return _filled(statement, names[SCHEMA], names[DATA_SCHEMA])
    return _filled(statement, where.database_schema, where.data_schema)


@lru_cache(maxsize=256)
def _filled(statement: str, schema: str, data: str) -> TextClause:
    named = (quoted(name).replace(":", "\\:") for name in (schema, data))  # text() reads :name as a parameter
    return text(statement.replace("{schema}", next(named)).replace("{data}", next(named)))


def quoted(name: str) -> str:
    """A name as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def schema_of(conn: Connection | Engine) -> str:
    """The name of our schema on this connection."""
    return cast("Mapping[str, str]", conn.get_execution_options()["schema_translate_map"])[SCHEMA]


def sqlstate(exc: DBAPIError) -> str | None:
    """The five-character code of what PostgreSQL said, None if it said nothing (the connection broke)."""
    return cast("str | None", getattr(exc.orig, "pgcode", None))


def place(settings: Settings) -> str:
    """`host:port/database` of the settings' PostgreSQL, without its user and password."""
    url = make_url(settings.database_url)
    host = url.host or str(url.query.get("host", "localhost"))
    return f"{host}:{url.port or 5432}/{url.database or ''}"


@contextmanager
def guarded(settings: Settings) -> Generator[None]:
    """Turn an unreachable PostgreSQL, or one without our tables, into an error that says what to do."""
    try:
        yield
    except ProgrammingError as exc:
        if sqlstate(exc) not in _UNDEFINED:
            raise
        raise _missing(settings) from exc
    except (OperationalError, InterfaceError, PoolTimeoutError) as exc:
        said = str(exc.orig if isinstance(exc, DBAPIError) else exc).strip().splitlines()
        raise ServiceError(
            f"PostgreSQL at {place(settings)} does not answer: {said[0] if said else type(exc).__name__}. "
            "Start it, or correct BEATLINE_DATABASE_URL."
        ) from exc


def _missing(settings: Settings) -> SchemaError:
    return SchemaError(
        "missing",
        f"The database {place(settings)} has no Beatline tables in its schema {settings.database_schema!r}: "
        "run `beatline db upgrade`.",
    )


def current_revision(conn: Connection) -> str | None:
    """The revision of the database's schema, None where there is none."""
    name = f"{quoted(schema_of(conn))}.{VERSION_TABLE}"
    if conn.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar() is None:
        return None
    versions = table(VERSION_TABLE, column("version_num"), schema=SCHEMA)
    return conn.execute(select(versions.c.version_num)).scalar()


def check_schema(settings: Settings) -> None:
    """Return only if the database's schema is the one this code was written for. Raises SchemaError."""
    with guarded(settings), open_engine(settings).connect() as conn:
        revision = current_revision(conn)
    refuse_newer(settings, revision)
    if revision is None:
        raise _missing(settings)
    if revision != HEAD:
        raise SchemaError(
            "older",
            f"The schema {settings.database_schema!r} of {place(settings)} is at revision {revision} and this Beatline "
            f"needs {HEAD}: run `beatline db upgrade`.",
        )


def refuse_newer(settings: Settings, revision: str | None) -> None:
    if revision is not None and revision not in KNOWN:
        raise SchemaError(
            "newer",
            f"The schema {settings.database_schema!r} of {place(settings)} is at revision {revision}, newer than this "
            f"Beatline ({HEAD}): upgrade the code on this machine.",
        )


def upgrade(settings: Settings) -> list[str]:
    """Bring the schema to this code's revision and make the coming days' partitions; says what it did.

    All of it or nothing, in one transaction; two at once wait for one another. Raises SchemaError if it is newer.
    """
    from beatline.ledger.migrations.run import run_migrations

    with guarded(settings):
        return run_migrations(settings)
