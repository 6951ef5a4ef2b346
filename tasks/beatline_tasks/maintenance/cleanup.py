"""Deletes expired rows of a user's own table in small batches, each a transaction of its own.

Only tables that the setting cleanup_tables names are touched: a schedule's arguments alone cannot empty a table.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import DBAPIError

from beatline.clock import monotonic_s
from beatline.connections import get_connection
from beatline.connections.sql import sql_session
from beatline.errors import TransientError
from beatline.ledger.database import quoted, sqlstate
from beatline_tasks.maintenance.errors import MaintenanceError

if TYPE_CHECKING:
    from beatline.installation import Installation

LARGEST_BATCH: Final = 50_000
_LONGEST_S: Final = 200.0
"""Below the soft limit of the queue `default`; what is left then goes with the next run."""
_WITH_ZONE: Final = "timestamp with time zone"
_WITHOUT_ZONE: Final = "timestamp without time zone"
_CANCELED: Final = "57014"
_REFERRED_TO: Final = "23503"
_MAY_PASS: Final = ("08", "53", "57P", "40", "55P03")
_COLUMN: Final = text(
    "SELECT c.relkind, c.relhassubclass, format_type(a.atttypid, NULL) AS kind FROM pg_class c "
    "JOIN pg_namespace n ON n.oid = c.relnamespace "
    "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = :column AND a.attnum > 0 AND NOT a.attisdropped "
    "WHERE n.nspname = :schema AND c.relname = :name"
)


@dataclass(frozen=True, slots=True)
class Expiring:
    """A table as `schema.name`, the column that says when a row expires, and the time zone of a column without one."""

    table: str
    column: str
    time_zone: str | None = None


@dataclass(slots=True)
class Cleaned:
    """What was deleted; `more` says that time ran out."""

    deleted: int = 0
    batches: int = 0
    more: bool = False


def clean_up(
    installation: Installation,
    connection: str,
    expiring: Expiring,
    *,
    batch_size: int,
    statement_timeout_s: float,
    longest_s: float = _LONGEST_S,
) -> Cleaned:
    """Delete the rows whose expiry lies before the database's time at the beginning; rows in use are left.

    It takes `longest_s` at most. Raises MaintenanceError, ConnectionFaultError (a read-only connection) or NotFoundError
    for what a person must mend, TransientError for what may pass; what was deleted until then stays deleted.
    """
    schema, name = _allowed(installation, connection, expiring.table)
    ends_s, cleaned = monotonic_s() + longest_s, Cleaned()
    session = sql_session(installation, connection, read_only=False, statement_timeout_s=statement_timeout_s)
    with session as conn, _in_words(expiring.table, cleaned):
        statement = _delete(conn, schema, name, expiring)
        values = {"now": conn.execute(text("SELECT now()")).scalar_one(), "size": batch_size}
        conn.rollback()
        while (left_s := ends_s - monotonic_s()) > 0:
            limit_s = min(statement_timeout_s, left_s)
            deleted = _delete_batch(conn, statement, values, limit_s)
            if deleted is not None:
                cleaned.deleted += deleted
                cleaned.batches += deleted > 0
                if deleted < batch_size:
                    return cleaned
            elif limit_s == statement_timeout_s or not cleaned.batches:  # too slow, not only begun too late
                raise _too_slow(expiring.table, batch_size, limit_s, cleaned)
    cleaned.more = True
    return cleaned


def _delete_batch(conn: Connection, statement: TextClause, values: dict[str, Any], limit_s: float) -> int | None:
    """How many rows one batch deleted, committed; None if it took longer than `limit_s`."""
    conn.execute(text(f"SET LOCAL statement_timeout = {math.ceil(limit_s * 1000)}"))
    try:
        deleted = conn.execute(statement, values).rowcount
    except DBAPIError as exc:
        if sqlstate(exc) != _CANCELED:
            raise
        conn.rollback()
        return None
    conn.commit()
    return deleted


def _allowed(installation: Installation, connection: str, table: str) -> tuple[str, str]:
    """Schema and name of a table that the setting allows."""
    definition = get_connection(installation, connection).definition
    asked = f"{definition.name}:{table}"
    listed = installation.settings.cleanup_tables
    if asked not in listed:
        raise MaintenanceError(
            f"table: {asked} is not on the list of tables that may be cleaned up; it has: {', '.join(listed) or 'none'}. "
            f"To allow it, add {asked} to BEATLINE_CLEANUP_TABLES for the workers (connection:schema.table)."
        )
    schema, _, name = table.partition(".")
    return schema, name


def _delete(conn: Connection, schema: str, name: str, expiring: Expiring) -> TextClause:
    """The statement that deletes a batch. Raises MaintenanceError if it would not be of expired rows."""
    column, tz = expiring.column, expiring.time_zone
    found = conn.execute(_COLUMN, {"schema": schema, "name": name, "column": column}).one_or_none()
    table = f"{schema}.{name}"
    if found is None or found.relkind not in ("r", "p"):
        raise MaintenanceError(f"table: there is no table {table} in this database (a view cannot be cleaned up).")
    if found.kind is None:
        raise MaintenanceError(f"expiry_column: the table {table} has no column {column!r}.")
    if found.kind not in (_WITH_ZONE, _WITHOUT_ZONE):
        raise MaintenanceError(
            f"expiry_column: {table}.{column} is {found.kind}, and a timestamp is needed: when a row expires."
        )
    if found.kind == _WITHOUT_ZONE and tz is None:
        raise MaintenanceError(
            f"time_zone: {table}.{column} is {found.kind}, which may mean any moment within a day: name the time zone in "
            "which its times are written, such as UTC."
        )
    if found.kind == _WITH_ZONE and tz is not None:
        raise MaintenanceError(f"time_zone: the times of {table}.{column} have one each: leave time_zone out.")
    # A row's place is unique in one table only, not over partitions and tables that inherit.
    place = "ctid" if found.relkind == "r" and not found.relhassubclass else "(tableoid, ctid)"
    where, expired = f"{_name(schema)}.{_name(name)}", f"{_name(column)} < :now"
    if tz is not None:
        # The first condition is for an index on the column. A local time that comes twice means the later one.
        expired = (
            f"{_name(column)} < (:now AT TIME ZONE :tz) + interval '1 day' AND {_name(column)} AT TIME ZONE :tz < :now"
        )
    rows = f"SELECT {place.strip('()')} FROM {where} WHERE {expired} LIMIT :size FOR UPDATE SKIP LOCKED"  # noqa: S608
    if place == "ctid":
        statement = text(f"DELETE FROM {where} WHERE ctid = ANY (ARRAY({rows}))")  # noqa: S608  # a scan by place
    else:
        statement = text(f"DELETE FROM {where} WHERE {place} IN ({rows})")  # noqa: S608
    return statement if tz is None else statement.bindparams(tz=tz)


def _name(name: str) -> str:
    return quoted(name).replace(":", "\\:")  # text() reads :name as a parameter


@contextmanager
def _in_words(table: str, cleaned: Cleaned) -> Generator[None]:
    try:
        yield
    except DBAPIError as exc:
        raise _failure(table, cleaned, exc) from None


def _too_slow(table: str, batch_size: int, limit_s: float, cleaned: Cleaned) -> MaintenanceError:
    return MaintenanceError(
        f"A batch of {batch_size:,} rows of {table} took longer than {limit_s:.3g} s: give expiry_column an index, or "
        f"lower batch_size; {cleaned.deleted:,} rows were deleted before."
    )


def _failure(table: str, cleaned: Cleaned, exc: DBAPIError) -> Exception:
    original: Any = exc.orig
    code = sqlstate(exc)
    said = getattr(getattr(original, "diag", None), "message_primary", None) or "the connection was lost"
    so_far = f"{cleaned.deleted:,} rows were deleted before"
    if code == _REFERRED_TO:
        return MaintenanceError(f"table: rows of {table} are referred to by another table: {said}; {so_far}.")
    if code is None or code.startswith(_MAY_PASS):
        return TransientError(f"The database failed while {table} was cleaned up: {said}; {so_far}.")
    return MaintenanceError(f"table: {table}: {said}; {so_far}.")
