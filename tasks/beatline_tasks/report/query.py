"""Asks a query: read only, in one transaction, row by row through a cursor of the server's, within its time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Connection, CursorResult, text
from sqlalchemy.exc import DBAPIError

from beatline.connections.sql import sql_session
from beatline.errors import TransientError
from beatline.ledger.database import quoted, sqlstate
from beatline.ledger.model import DATA_SCHEMA
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.rows import Column, ColumnKind
from beatline_tasks.report.spec import Query, Report
from beatline_tasks.report.sql import bindable, names_in

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline_tasks.report.period import Period

_ROWS_AT_ONCE: Final = 500
_KINDS: Final[Mapping[int, ColumnKind]] = {
    16: "boolean",
    20: "integer", 21: "integer", 23: "integer", 26: "integer",
    700: "number", 701: "number", 1700: "number",
    1082: "date",
    1114: "timestamp", 1184: "timestamp",
}  # fmt: skip
"""By the numbers of PostgreSQL's own types, which never change; any other is shown as text."""

# A lost connection, a server that stops or is full, a row that was locked or a transaction that met another.
_PASSING: Final = ("08", "53", "57P", "40", "55")
_TIMED_OUT: Final = "57014"
_WRITES: Final = "25006"


@dataclass(slots=True)
class Answer:
    """Columns, and rows one by one; `cut` once there were more than the report takes."""

    columns: list[Column]
    rows: Iterator[tuple[Any, ...]]
    cut: bool = field(default=False)


@contextmanager
def asked(installation: Installation, report: Report, name: str, period: Period) -> Generator[Answer]:
    """The answer of one query for a period, at most `max_rows` rows of it.

    Raises ReportError for what its text or its data base refuses, TransientError for what may pass.
    """
    query = report.queries[name]
    with _in_words(name, query, report), _session(installation, report, query) as conn:
        statement = text(bindable(query.sql)).bindparams(**parameters(report, query, period))
        options = conn.execution_options(stream_results=True, max_row_buffer=_ROWS_AT_ONCE, yield_per=_ROWS_AT_ONCE)
        with options.execute(statement) as result:
            columns = columns_of(result, name)
            answer = Answer(columns, iter(()))
            answer.rows = _limited(result, report.max_rows, answer)
            yield answer


def tried(installation: Installation, report: Report, name: str, period: Period) -> list[Column]:
    """The columns of a query, which the server has planned but not run. Raises as `asked` does."""
    query = report.queries[name]
    with _in_words(name, query, report), _session(installation, report, query) as conn:
        bound = parameters(report, query, period)
        conn.execute(text(f"EXPLAIN {bindable(query.sql)}").bindparams(**bound))
        with conn.execute(
            # The query is the user's own SQL; its values are bound.
            text(f"SELECT * FROM (\n{bindable(query.sql)}\n) AS tried LIMIT 0").bindparams(**bound)  # noqa: S608
        ) as result:
            return columns_of(result, name)


def parameters(report: Report, query: Query, period: Period) -> dict[str, Any]:
    """What the query names, with its values; values never become part of its text."""
    given: dict[str, Any] = dict(report.parameters)
    given |= {"period_start": period.start, "period_end": period.end, "time_zone": report.time_zone}
    return {name: given[name] for name in names_in(query.sql)}


def columns_of(result: CursorResult[Any], name: str) -> list[Column]:
    """The columns of an answer. Raises ReportError if two have one name: a chart could not tell which is meant."""
    cursor: Any = result.cursor
    columns = [Column(str(entry[0]), _KINDS.get(entry[1], "text")) for entry in cursor.description]
    names = [column.name for column in columns]
    double = next((found for found in names if names.count(found) > 1), None)
    if double is not None:
        raise ReportError(f"queries.{name}: gives two columns {double!r}: name one of them otherwise, with AS.")
    return columns


def _limited(result: CursorResult[Any], limit: int, answer: Answer) -> Iterator[tuple[Any, ...]]:
    for number, row in enumerate(chain.from_iterable(result.partitions()), 1):
        if number > limit:
            answer.cut = True
            return
        yield tuple(row)


@contextmanager
def _session(installation: Installation, report: Report, query: Query) -> Generator[Connection]:
    if query.connection is not None:
        with sql_session(installation, query.connection, statement_timeout_s=report.statement_timeout_s) as conn:
            yield conn
        return
    with installation.engine.connect() as conn:
        conn.detach()  # closed at the end: what a query leaves in its session, such as a lock, goes with it
        names = cast("Mapping[str, str]", conn.get_execution_options()["schema_translate_map"])
        timeout_ms = int(report.statement_timeout_s * 1000)
        path = quoted(names[DATA_SCHEMA]).replace(":", "\\:")
        conn.execute(text("SET TRANSACTION READ ONLY"))
        conn.execute(text("SET LOCAL standard_conforming_strings TO on"))  # `check_statement` reads quotes so
        conn.execute(text(f"SET LOCAL search_path TO {path}"))
        conn.execute(text(f"SET LOCAL statement_timeout TO {timeout_ms}"))
        yield conn
        conn.rollback()


@contextmanager
def _in_words(name: str, query: Query, report: Report) -> Generator[None]:
    try:
        yield
    except DBAPIError as exc:
        code = sqlstate(exc)
        said = str(exc.orig).strip().splitlines()
        what = said[0] if said else type(exc).__name__
        where = "the datasets" if query.connection is None else f"connection {query.connection!r}"
        if code == _TIMED_OUT:
            raise ReportError(
                f"queries.{name}: took longer than {report.statement_timeout_s:g} s on {where}: "
                "make it quicker, or raise statement_timeout_s."
            ) from exc
        if code == _WRITES:
            raise ReportError(f"queries.{name}: writes, and a report only reads: {what}.") from exc
        if code is None or code.startswith(_PASSING):
            raise TransientError(f"queries.{name}: {where} cannot answer now: {what}.") from exc
        raise ReportError(f"queries.{name}: {where} refused it: {what}.") from exc
