"""What a sql source may declare, the statement it becomes, and its values as JSON would have them. No database."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from beatline.definitions.specs import check
from beatline.errors import DefinitionError
from beatline.families import kinds
from beatline_tasks.collect.cursor import Position
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.source import Source
from beatline_tasks.collect.sql import check_columns, plain, statement

SQL: dict[str, Any] = {"type": "sql", "connection": "shop", "table": "public.orders", "key": ["id"]}
QUERY: dict[str, Any] = {"type": "sql", "connection": "shop", "query": "SELECT 1 AS id", "key": ["id"]}
TIMED: dict[str, Any] = {"columns": {"at": "timestamp", "id": "integer"}, "cursor": {"field": "at"}}
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def made(spec: dict[str, Any], start: Position | None = None) -> tuple[str, Any]:
    text, bound = statement(Source.model_validate(spec), start)
    return " ".join(text.split()), bound


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({k: v for k, v in SQL.items() if k != "connection"}, "connection: is required for a source of type sql"),
        (SQL | {"query": "SELECT 1"}, "query or table: a source of type sql has one of them"),
        ({k: v for k, v in SQL.items() if k != "table"}, "query or table:"),
        (SQL | {"url": "https://h/"}, "url: is not for sources of type sql"),
        (SQL | {"path": "/x"}, "path: is not for sources of type sql"),
        (SQL | {"format": "json", "etag": False}, "format, etag: is not for sources of type sql"),
        (SQL | {"pagination": {"type": "page"}}, "pagination: is not for"),
        (SQL | {"table": 'a"b'}, "table: "),
        (SQL | {"table": "a.b.c"}, "table: "),
        (QUERY | {"query": " ; "}, "query: is empty"),
        (QUERY | {"query": "DELETE FROM t"}, "query: is no SELECT: it begins with 'delete'"),
        (QUERY | {"query": "SELECT 1) AS x; COMMIT; SELECT * FROM (SELECT 1"}, "query: closes a parenthesis"),
        (QUERY | {"query": "SELECT 1; SELECT 2"}, "query: holds a second statement"),
        (QUERY | {"query": "SELECT :cursor AS id"}, "cursor: the query uses :cursor, and no cursor.field"),
        (SQL | TIMED | {"cursor": {"field": "at", "param": "since"}}, "a query names its position as :cursor"),
        ({"type": "http", "url": "https://h/", "key": ["id"]}, "format: is required: json, csv or jsonl"),
        (
            {"type": "http", "url": "https://h/", "format": "json", "key": ["id"], "table": "t"},
            "table: is for sources of type sql",
        ),
        (
            {"type": "file", "path": "/x", "format": "csv", "key": ["id"], "connection": "c"},
            "connection: is for sources",
        ),
    ],
)
def test_nonsense_is_refused_by_field(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        check(kinds()["source"], "orders", spec)
    assert words in str(refused.value)


def test_a_table_is_quoted_and_a_query_stands_in_brackets_of_its_own() -> None:
    table = SQL | {"table": "Shop.Order Lines"}
    assert made(table)[0] == 'SELECT * FROM ( SELECT * FROM "Shop"."Order Lines" ) AS beatline_source'
    text, _ = statement(Source.model_validate(QUERY | {"query": "SELECT 1 AS id -- the last\n;"}), None)
    assert text == "SELECT * FROM (\nSELECT 1 AS id -- the last\n\n) AS beatline_source"


def test_only_what_lies_past_the_position_is_asked_for() -> None:
    assert made(SQL | TIMED) == ('SELECT * FROM ( SELECT * FROM "public"."orders" ) AS beatline_source', None)
    late = SQL | TIMED | {"cursor": {"field": "at", "overlap_s": 60}}
    text, bound = made(late, Position(NOON))
    assert text.endswith('WHERE beatline_source."at" >= %(cursor)s')
    assert bound == {"cursor": NOON - timedelta(minutes=1)}


def test_an_ordered_source_is_ordered_by_the_database_as_python_orders() -> None:
    ordered = {"field": "at", "tie_break": "code", "ordered": True}
    spec = SQL | TIMED | {"columns": {"at": "timestamp", "code": "text"}, "cursor": ordered}
    assert made(spec)[0].endswith('ORDER BY beatline_source."at", beatline_source."code" COLLATE "C"')


@pytest.mark.parametrize(
    ("kind", "least"),
    [("timestamp", "-infinity"), ("date", "-infinity"), ("integer", -(2**63)), ("text", ""), ("number", float("-inf"))],
)
def test_a_query_that_names_the_position_gets_it_bound_from_the_first_run_on(kind: str, least: Any) -> None:
    query = "SELECT id, at FROM t WHERE at >= :cursor::text AND note LIKE '10%' AND b = 'x'::cursor"
    spec = QUERY | {"query": query, "columns": {"at": kind}, "cursor": {"field": "at"}}
    text, bound = made(spec)
    assert "at >= %(cursor)s::text AND note LIKE '10%%' AND b = 'x'::cursor" in text
    assert "WHERE beatline_source" not in text
    assert bound == {"cursor": least}


def test_a_position_is_bound_only_where_it_is_code() -> None:
    query = "SELECT id, at, ':cursor' AS a, $$:cursor$$ FROM t WHERE at > :cursor -- :cursor"
    text, bound = made(QUERY | TIMED | {"query": query}, Position(NOON))
    assert "':cursor' AS a, $$:cursor$$ FROM t WHERE at > %(cursor)s -- :cursor" in text
    assert bound == {"cursor": NOON}


def test_a_query_without_a_position_is_sent_as_it_is() -> None:
    assert "LIKE '10%'" in made(QUERY | {"query": "SELECT 1 AS id WHERE 'a' LIKE '10%'"})[0]


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (Decimal(12), 12),
        (Decimal("12.50"), 12.5),
        (Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (Decimal("NaN"), "NaN"),
        (float("inf"), "inf"),
        (NOON, "2026-11-22T12:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(8, 30), "08:30:00"),
        (memoryview(b"\x00\xff"), "\\x00ff"),
        ([Decimal(1), None], [1, None]),
        ({"a": [date(2026, 1, 2)]}, {"a": ["2026-01-02"]}),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (True, True),
    ],
)
def test_values_are_what_json_can_say(value: object, json: object) -> None:
    assert plain(value) == json


def test_columns_that_are_missing_or_double_are_named() -> None:
    source = Source.model_validate(QUERY | {"columns": {"at": "date"}})
    with pytest.raises(SourceError, match="query: it has no column 'at'; its columns are: id, b"):
        check_columns(source, ["id", "b"])
    with pytest.raises(SourceError, match="query: it gives a column twice: id"):
        check_columns(source, ["id", "at", "id"])
