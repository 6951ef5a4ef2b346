"""Bodies: JSON, CSV, JSON lines, and what only pretends to be."""

from __future__ import annotations

import io
from typing import Any

import pytest

from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.parse import parse_json, parse_lines
from beatline_tasks.collect.rows import Unreadable
from beatline_tasks.collect.source import Source


def source(format: str, **more: Any) -> Source:
    spec: dict[str, Any] = {"type": "http", "url": "http://h/", "format": format, "key": ["id"]}
    return Source.model_validate(spec | more)


def lines(format: str, body: bytes, **more: Any) -> list[object]:
    return list(parse_lines(source(format, **more), io.BytesIO(body), "page 1"))


def test_rows_are_found_where_records_says() -> None:
    body = b'{"data": {"items": [{"id": 1}]}, "next": null}'
    whole, rows = parse_json(source("json", records="data.items"), io.BytesIO(body), "page 1")
    assert rows == [{"id": 1}]
    assert whole == {"data": {"items": [{"id": 1}]}, "next": None}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "is no JSON"),
        (b"", "is no JSON"),
        (b'[{"id": NaN}]', "NaN is no JSON value"),
        (b'[{"id": ' + b"9" * 5000 + b"}]", "is no JSON"),
        (b"[" * 200_000, "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b'{"items": [], "next": null}', "it is an object with the fields: items, next. Name the list in records"),
        (b"7", "it is 7"),
    ],
)
def test_what_holds_no_rows_is_told_in_words(body: bytes, words: str) -> None:
    with pytest.raises(SourceError) as refused:
        parse_json(source("json"), io.BytesIO(body), "page 1")
    assert str(refused.value).startswith("page 1 ")
    assert words in str(refused.value)


def test_csv_is_read_with_its_delimiter_and_encoding() -> None:
    assert lines("csv", '\ufeffid,n\r\n1,"a\nb"\r\n'.encode()) == [{"id": "1", "n": "a\nb"}]
    assert lines("csv", "id;n\n1;ü\n".encode("latin-1"), csv={"delimiter": ";", "encoding": "latin-1"}) == [
        {"id": "1", "n": "ü"}
    ]
    assert lines("csv", b"") == []
    assert lines("csv", b"id\n") == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"date;n\n1;2\n", "has no column 'id'; its columns are: date;n"),
        (b"id,a,a\n1,2,3\n", "names a column twice: 'a'"),
        (b"id,n\n1,\xff\n", "is not utf-8-sig after line"),
        (b'id,n\n1,"' + b"x" * 200_000 + b'"\n', "is no CSV after line"),
    ],
)
def test_what_is_no_csv_is_told_in_words(body: bytes, words: str) -> None:
    with pytest.raises(SourceError) as refused:
        lines("csv", body)
    assert words in str(refused.value)


def test_a_bad_line_of_json_does_not_touch_its_neighbours() -> None:
    found = lines("jsonl", b'{"id": 1}\n\n{"id": \n' + b'"' + b"x" * (9 * 2**20) + b'"\n{"id": 2}')
    assert [row for row in found if not isinstance(row, Unreadable)] == [{"id": 1}, {"id": 2}]
    assert [row.reason.partition(":")[0] for row in found if isinstance(row, Unreadable)] == [
        "no JSON",
        "the line has more than 8,388,608 bytes",
    ]
