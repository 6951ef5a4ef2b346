"""One transaction in one database, spoken to in plain SQL: the only place here where psycopg2 is met.

No value is ever put into a statement: it is given to the transaction with `let`, and the statement refers to it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, NoReturn, Protocol, cast

from psycopg2 import Error
from sqlalchemy import Connection

from beatline.errors import TransientError
from beatline.ledger.database import quoted
from beatline_tasks.etl.contract import Field
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.fieldtypes import base

_CONFLICTS: Final = frozenset({"40001", "40P01", "55P03", "57P01", "57P02", "57P03"})
"""Serialization, deadlock, lock time-out, and a server that stops or starts."""
_EXHAUSTED: Final = "53"
_CONNECTION: Final = "08"
_TIMED_OUT: Final = "57014"
_COPY_BYTES: Final = 2**18
_ANYBODY_SETS: Final = ("user", "superuser")
# Names in full: the search path may be what was set. The role comes first: the others may need its rights.
_SETTINGS: Final = """
    SELECT 'role', pg_catalog.current_setting('role'), 'user'
    UNION ALL SELECT name, setting, context FROM pg_catalog.pg_settings
"""
_MOST_DIGITS: Final = 1000


class _Cursor(Protocol):
    rowcount: int
    description: Sequence[Any] | None

    def execute(self, sql: str, values: Sequence[object] | None = None) -> None: ...
    def fetchall(self) -> list[tuple[Any, ...]]: ...
    def copy_expert(self, sql: str, file: IO[bytes], size: int = ...) -> None: ...
    def close(self) -> None: ...


class _Cancels(Protocol):
    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Table:
    """A table by its schema and name."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """As it stands in a statement."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Session:
    """A transaction that its owner commits or rolls back; `place` is how messages call the database.

    Errors of the server come out as JobError, or TransientError for what may pass.
    """

    def __init__(self, conn: Connection, place: str) -> None:
        self.conn, self.place = conn, place
        self._given: dict[str, str] = {}
        self._settings: dict[str, str] | None = None

    def prepare(self, statement_timeout_s: float, search_path: str | None = None) -> None:
        """Set what a statement here may rely on: UTC, ISO dates, a bounded time."""
        path = "" if search_path is None else f"; SET LOCAL search_path TO {search_path}"
        self.run(
            "SET LOCAL timezone TO 'UTC'; SET LOCAL datestyle TO 'ISO, YMD'; "
            "SET LOCAL standard_conforming_strings TO on; "  # `one_select` reads quotes as it says
            f"SET LOCAL statement_timeout TO {int(statement_timeout_s * 1000)}{path}"
        )

    def run(self, statement: str, *, what: str = "The statement") -> int:
        """Execute; how many rows it touched."""
        with self._cursor(what) as cursor:
            cursor.execute(statement)
            return cursor.rowcount

    def rows(self, statement: str, *, what: str = "The statement") -> list[tuple[Any, ...]]:
        """Execute, and all rows of the answer."""
        with self._cursor(what) as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def one(self, statement: str, *, what: str = "The statement") -> tuple[Any, ...]:
        """Execute; the first row of the answer."""
        return self.rows(statement, what=what)[0]

    def let(self, name: str, value: str) -> str:
        """Give the transaction a value; returns the SQL expression of type text that stands for it."""
        self._given[f"beatline.{name}"] = value
        self._set({f"beatline.{name}": value})
        return f"current_setting('beatline.{name}')"

    def copy_out(self, query: str, file: IO[bytes], options: str = "", *, what: str) -> int:
        """Stream a query's rows into a file, in PostgreSQL's COPY format; how many."""
        with self._cursor(what) as cursor:
            cursor.copy_expert(f"COPY (\n{query}\n) TO STDOUT {options}", file)
            return cursor.rowcount

    def copy_in(self, table: str, file: IO[bytes], options: str = "", *, what: str) -> int:
        """Stream rows in PostgreSQL's COPY format into a table; how many."""
        with self._cursor(what) as cursor:
            cursor.copy_expert(f"COPY {table} FROM STDIN {options}", file, _COPY_BYTES)
            return cursor.rowcount

    def fields(self, query: str, *, what: str) -> list[Field]:
        """The fields of a SELECT with their types, without reading a row."""
        with self._cursor(what) as cursor:
            cursor.execute(f"SELECT * FROM (\n{query}\n) AS asked LIMIT 0")
            described = list(cursor.description or ())
        oids = self.let("oids", "{" + ",".join(str(int(column.type_code)) for column in described) + "}")
        kinds = dict(
            self.rows(
                "SELECT CAST(oid AS bigint), format_type(oid, NULL) FROM pg_type "
                f"WHERE oid = ANY (CAST({oids} AS oid[]))"
            )
        )
        return [Field(str(column.name), _with_limits(str(kinds[column.type_code]), column)) for column in described]

    def cancel(self) -> None:
        """End the statement that another thread executes here, if there is one."""
        cast("_Cancels", self.conn.connection.dbapi_connection).cancel()

    @contextmanager
    def read_only(self) -> Generator[None]:
        """What is executed inside may write nothing but temporary tables, and leaves no setting other than it was."""
        if self._settings is None:
            self._settings = self._current()
        self.run("SAVEPOINT beatline_read_only")
        self.run("SET TRANSACTION READ ONLY")
        yield
        self.run("RELEASE SAVEPOINT beatline_read_only")  # which ends the restriction, too
        # A SELECT may set what later statements rely on, by set_config: search_path, role, the values given here.
        now = self._current()
        self._set({name: value for name, value in self._settings.items() if now.get(name) != value} | self._given)

    @contextmanager
    def attempt(self) -> Generator[None]:
        """What is executed inside is undone if it raises, and nothing before it."""
        self.run("SAVEPOINT beatline_attempt")
        try:
            yield
        except JobError:
            self.run("ROLLBACK TO SAVEPOINT beatline_attempt")
            raise
        self.run("RELEASE SAVEPOINT beatline_attempt")

    def _current(self) -> dict[str, str]:
        """All settings that a statement may change."""
        with self._cursor("The settings") as cursor:
            cursor.execute(_SETTINGS)
            return {str(name): str(value) for name, value, context in cursor.fetchall() if context in _ANYBODY_SETS}

    def _set(self, values: Mapping[str, str]) -> None:
        if not values:
            return
        with self._cursor("A value") as cursor:
            calls = ", ".join(["pg_catalog.set_config(%s, %s, true)"] * len(values))
            cursor.execute(f"SELECT {calls}", [part for pair in values.items() for part in pair])

    @contextmanager
    def _cursor(self, what: str) -> Generator[_Cursor]:
        cursor = cast("_Cursor", self.conn.connection.cursor())
        try:
            yield cursor
        except Error as exc:
            self._refuse(exc, what)
        finally:
            cursor.close()

    def _refuse(self, exc: Error, what: str) -> NoReturn:
        code = exc.pgcode
        said = exc.diag.message_primary or str(exc).strip().partition("\n")[0] or "it does not answer"
        hint = f" ({exc.diag.message_hint})" if exc.diag.message_hint else ""
        if code is None or code in _CONFLICTS or code.startswith((_EXHAUSTED, _CONNECTION)):
            raise TransientError(f"{what}: {self.place} says: {said}{hint}.") from exc
        if code == _TIMED_OUT and "statement timeout" in said:
            raise JobError(f"{what}: took longer than statement_timeout_s allows, and was ended.") from exc
        raise JobError(f"{what}: {self.place} refuses it: {said}{hint}.") from exc


def _with_limits(kind: str, column: Any) -> str:
    if kind == "numeric" and column.precision is not None and column.precision <= _MOST_DIGITS:
        return f"numeric({column.precision},{column.scale or 0})"
    if kind == "character varying" and (column.internal_size or 0) > 0:
        return f"character varying({column.internal_size})"
    return kind


def native(kind: str) -> bool:
    """Whether every PostgreSQL knows the type: a row can be copied from one database to another as it is."""
    return base(kind) in _NATIVE


_NATIVE: Final = frozenset(
    [
        "smallint", "integer", "bigint", "real", "double precision", "numeric", "text", "character varying",
        "boolean", "date", "timestamp with time zone", "timestamp without time zone", "time without time zone",
        "time with time zone", "interval", "json", "jsonb", "uuid", "bytea", "inet", "cidr", "text[]", "integer[]",
        "bigint[]", "numeric[]", "double precision[]", "boolean[]", "uuid[]", "date[]", "timestamp with time zone[]",
    ]
)  # fmt: skip
