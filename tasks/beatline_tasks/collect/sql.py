"""A source that is a table or a query in a user's own database, read with a cursor of the server's.

Only what lies past the collected position is asked for: the position is bound as `:cursor` where the query names it,
else as a condition around it. What the database gives comes as JSON would have it, so that rows are typed as those of
every other source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast

from beatline.clock import monotonic_s
from beatline.connections import ConnectionFaultError
from beatline.datasets.columns import ColumnType, Value
from beatline.errors import DefinitionError, KeyMissingError, NotFoundError, SecretError, ServiceError, TransientError
from beatline.ledger.database import quoted
from beatline.selects import bare, change_code
from beatline_tasks.collect.cursor import Position, lower_bound
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.pages import Page, Validators
from beatline_tasks.collect.source import CURSOR_PARAMETER, Source

if TYPE_CHECKING:
    from beatline.installation import Installation

_ROWS_AT_ONCE: Final = 1000
_NAMES_SHOWN: Final = 12
_AS_TEXT: Final = (1082, 1114, 1184)
"""Types date, timestamp, timestamptz: as text they may be infinite or before our era, which Python's may not."""
_MAY_PASS: Final = ("08", "53", "57P", "40", "55P03")
"""SQLSTATEs: connection lost, no resources, shut down, deadlock or serialization, lock not available."""
_CANCELED: Final = "57014"
_READ_ONLY: Final = "25006"
_LEAST: Final[Mapping[ColumnType, Value]] = {
    "text": "",
    "integer": -(2**63),
    "number": -math.inf,
    "date": "-infinity",
    "timestamp": "-infinity",
}
"""What `:cursor` is before anything was read: all rows lie past it."""


@dataclass(slots=True)
class SqlPages:
    """A table or query as one page, read in one transaction that changes nothing."""

    source: Source
    installation: Installation
    start: Position | None
    validators: Validators = field(default_factory=dict[str, Any])

    def __iter__(self) -> Generator[Page]:
        source = self.source
        what = f"the table {source.table}" if source.table else "the query"
        with self._session() as cursor, self._in_words():
            cursor.execute(*statement(source, self.start))
            yield Page(f"{what} over the connection {source.connection!r}", self._rows(cursor))

    def _rows(self, cursor: Any) -> Iterator[object]:
        ends_s = monotonic_s() + self.source.timeouts.run_s
        names: list[str] | None = None
        while True:
            if monotonic_s() > ends_s:
                raise TransientError(f"The {self.source.timeouts.run_s:g} s for one run (timeouts.run_s) are over.")
            with self._in_words():
                found: list[tuple[object, ...]] = cursor.fetchmany(_ROWS_AT_ONCE)
            if names is None:  # a cursor of the server's has no columns before its first rows
                names = [str(column[0]) for column in cursor.description or ()]
                check_columns(self.source, names)
            if not found:
                return
            for row in found:
                yield {name: plain(value) for name, value in zip(names, row, strict=True)}

    @contextmanager
    def _session(self) -> Generator[Any]:
        from beatline.connections.sql import sql_session

        try:
            session = sql_session(self.installation, self.source.connection or "")
            with session as conn:
                dbapi: Any = conn.connection.driver_connection
                with dbapi.cursor(name="beatline_collect") as cursor:
                    _let_times_be_text(cursor)
                    yield cursor
        except KeyMissingError as exc:
            raise ServiceError(f"connection: {exc}") from exc
        except (NotFoundError, ConnectionFaultError, DefinitionError, SecretError) as exc:
            raise SourceError(f"connection: {exc}") from exc

    @contextmanager
    def _in_words(self) -> Generator[None]:
        import psycopg2

        try:
            yield
        except psycopg2.Error as exc:
            raise _failure(self.source, exc) from None  # its text may repeat values


def statement(source: Source, start: Position | None) -> tuple[str, dict[str, Value] | None]:
    """The statement as psycopg2 takes it, and what is bound in it. Pure."""
    cursor = source.cursor
    query = _table(source.table) if source.table else (source.query or "")
    own = CURSOR_PARAMETER.search(bare(query)) is not None
    whole = f"SELECT * FROM (\n{query}\n) AS beatline_source"  # noqa: S608  # a query is SQL of its author's own
    if cursor is None:
        return whole, None
    place = f"beatline_source.{_named(cursor.field, source.type_of(cursor.field))}"
    if start is not None and not own:
        whole += f"\nWHERE {place} >= :cursor"
    if cursor.ordered:
        order = [place]
        if cursor.tie_break is not None:
            order.append(f"beatline_source.{_named(cursor.tie_break, source.type_of(cursor.tie_break))}")
        whole += f"\nORDER BY {', '.join(order)}"
    if start is None and not own:
        return whole, None
    value = _LEAST[source.type_of(cursor.field)] if start is None else lower_bound(cursor, start)
    return change_code(whole.replace("%", "%%"), _bound), {"cursor": value}


def _bound(code: str) -> str:
    # Only in code: within quotes of the query's own, the value's quotes would end them.
    return CURSOR_PARAMETER.sub("%(cursor)s", code)


def plain(value: object) -> object:
    """A value of PostgreSQL's as JSON would have it; what JSON has no word for, as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Decimal():
            return _number(value)
        case datetime() | date() | time():
            return value.isoformat()
        case memoryview() | bytes():
            return "\\x" + bytes(cast("bytes", value)).hex()
        case list() | tuple():
            return [plain(item) for item in cast("list[object]", value)]
        case dict():
            return {str(k): plain(v) for k, v in cast("dict[object, object]", value).items()}
        case _:
            return str(value)


def check_columns(source: Source, names: list[str]) -> None:
    """Return only if the result has the columns of the source. Raises SourceError that names them."""
    what = "table" if source.table else "query"
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(f"{what}: it gives a column twice: {', '.join(twice)}. Name each in the query (AS).")
    absent = [name for name in source.typed if name not in names]
    if absent:
        listed = ", ".join(names[:_NAMES_SHOWN])
        raise SourceError(
            f"{what}: it has no column {', '.join(map(repr, absent))}; its columns are: {listed}. "
            "Correct key and columns, or the query."
        )


def _failure(source: Source, exc: Any) -> Exception:
    code = cast("str | None", exc.pgcode)
    said = cast("str | None", exc.diag.message_primary) or "the connection was lost"
    what = "table" if source.table else "query"
    if code == _CANCELED and "statement timeout" in said:
        return SourceError(
            f"{what}: a statement took longer than the connection's statement_timeout_s: give the cursor's field an "
            "index, ask for less, or raise it."
        )
    if code is None or code.startswith(_MAY_PASS):
        return TransientError(f"The database of connection {source.connection!r} failed while it was read: {said}.")
    if code == _READ_ONLY:
        return SourceError(f"{what}: it tries to change something, and sources only read: {said}.")
    return SourceError(f"{what}: {said}.")


def _number(value: Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value() and value.adjusted() < 18:
        return int(value)
    near = float(value)
    return near if Decimal(repr(near)) == value else str(value)  # money keeps its last digit


def _named(name: str, kind: ColumnType) -> str:
    # Python compares text by code point; the database's own order would be another.
    return quoted(name) + (' COLLATE "C"' if kind == "text" else "")


def _table(name: str) -> str:
    return f"SELECT * FROM {'.'.join(quoted(part) for part in name.split('.'))}"  # noqa: S608  # quoted


def _let_times_be_text(cursor: Any) -> None:
    from psycopg2 import extensions

    typed: Any = extensions  # its stubs leave the types of types open
    typed.register_type(typed.new_type(_AS_TEXT, "BEATLINE_TIME", _iso), cursor)


def _iso(text: str | None, _cursor: object) -> str | None:
    return None if text is None else re.sub(r"^(\S+) (\S+?)(\+00)?$", _joined, text)


def _joined(match: re.Match[str]) -> str:
    return f"{match[1]}T{match[2]}{'Z' if match[3] else ''}"
