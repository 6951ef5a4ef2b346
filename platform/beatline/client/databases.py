"""Whether a connection of the caller's reaches our tables: the same ones, not others of the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Row, text

from beatline.errors import ServiceError
from beatline.ledger.database import guarded, place

if TYPE_CHECKING:
    from beatline.installation import Installation

# Of the server its start, as a number: as text it would be in the time zone of the session that asks.
_WHO: Final = text("""
    SELECT current_database() AS name, CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) AS text) AS server,
        CAST((SELECT oid FROM pg_database WHERE datname = current_database()) AS bigint) AS database,
        CAST(r.oid AS bigint) AS runs, current_user AS role,
        has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(r.oid, 'INSERT')
            AND has_table_privilege(d.oid, 'INSERT') AND has_table_privilege(d.oid, 'SELECT') AS may
    FROM (SELECT 1) AS one LEFT JOIN pg_namespace n ON n.nspname = CAST(:schema AS name)
    LEFT JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = 'runs'
    LEFT JOIN pg_class d ON d.relnamespace = n.oid AND d.relname = 'run_days'
""")  # of the catalogue, which everybody may read: a statement that is refused would break the caller's transaction off

_ours: dict[tuple[str, str], tuple[object, ...]] = {}


def refuse_other(conn: Connection, installation: Installation) -> None:
    """Raises ServiceError, with nothing written, if the tables of this installation are not reached or not writable."""
    settings = installation.settings
    if conn.dialect.name != "postgresql":
        raise ServiceError(
            f"The session is one of {conn.dialect.name}, and runs are accepted in PostgreSQL at {place(settings)}: "
            "nothing was written. Submit without a session, or with one of that database."
        )
    theirs = conn.execute(_WHO, {"schema": settings.database_schema}).one()
    key = (settings.database_url, settings.database_schema)
    if _identity(theirs) != _ours.get(key):  # the server may have been restarted, or the tables made anew
        with guarded(settings), installation.engine.connect() as own:
            _ours[key] = _identity(own.execute(_WHO, {"schema": settings.database_schema}).one())
    if theirs.runs is None or _identity(theirs) != _ours[key]:
        raise ServiceError(
            f"The session's database {theirs.name!r} is not that of Beatline, {place(settings)} with the schema "
            f"{settings.database_schema!r}: nothing was written. Submit without a session, or set BEATLINE_DATABASE_URL "
            "to the session's database and run `beatline db upgrade`."
        )
    if not theirs.may:
        schema = settings.database_schema
        raise ServiceError(
            f"The role {theirs.role!r} of the session may not accept runs: nothing was written. "
            f"GRANT USAGE ON SCHEMA {schema}, and SELECT, INSERT ON {schema}.runs, {schema}.run_days, TO {theirs.role}."
        )


def _identity(row: Row[tuple[object, ...]]) -> tuple[object, ...]:
    return (row.server, row.database, row.runs)
