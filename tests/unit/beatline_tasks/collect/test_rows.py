"""Rows: taken or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beatline_tasks.collect.cursor import Position
from beatline_tasks.collect.rows import Refusals, RowReader, RowRefusedError, Unreadable
from beatline_tasks.collect.source import Source


def reader(**more: Any) -> RowReader:
    spec: dict[str, Any] = {"type": "file", "path": "/x", "format": "jsonl", "key": ["id"], "columns": {"n": "integer"}}
    source = Source.model_validate(spec | more)
    return RowReader(source, source.typed)


def test_declared_fields_become_columns_and_the_rest_a_document() -> None:
    row = reader().read({"id": "a\tb", "n": "7", "x": {"y": [1, None]}, "t": "ü\x00"})
    assert row.fields == ("a\\tb", "7")
    assert json.loads(row.doc) == {"x": {"y": [1, None]}, "t": "ü"}
    assert row.position is None


def test_a_document_is_escaped_for_copy() -> None:
    row = reader().read({"id": 1, "t": 'a\n"b"\\'})
    assert "\n" not in row.doc
    assert json.loads(row.doc.replace("\\\\", "\\")) == {"t": 'a\n"b"\\'}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"n": 1}, "key field 'id' is missing or empty"),
        ({"id": None}, "key field 'id' is missing or empty"),
        ({"id": "\x00"}, "key field 'id' is missing or empty"),
        ({"id": {}}, "id: {} is no text or number"),
        ({"id": "k" * 2001}, "its key has 2001 bytes"),
        ({"id": "a", "n": "many"}, "n: 'many' is no integer"),
        ({"id": "a", "x": float("inf")}, "out of range"),
        ({"id": "a", None: ["extra"]}, "more fields than the header"),
        ([1, 2], "[1, 2] is no object"),
        (Unreadable("no JSON: x"), "no JSON: x"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(raw: object, reason: str) -> None:
    with pytest.raises(RowRefusedError) as refused:
        reader().read(raw)
    assert reason in str(refused.value)


def test_a_row_nested_too_deep_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RowRefusedError, match="nested too deep"):
        reader().read({"id": "a", "x": deep})


def test_a_row_knows_its_place_in_the_source() -> None:
    ordered = reader(cursor={"field": "n", "tie_break": "id"})
    assert ordered.read({"id": "a", "n": 3}).position == Position(3, "a")
    with pytest.raises(RowRefusedError, match="cursor field 'n'"):
        ordered.read({"id": "a"})


def test_the_first_reasons_are_told_and_all_counted() -> None:
    refusals = Refusals()
    for number in range(1, 6):
        refusals.add(number, "bad")
    assert str(refusals) == "5 refused (row 1: bad; row 2: bad; row 3: bad)"
