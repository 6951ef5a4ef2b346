"""What a source may declare, and what it is told when it declares nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from beatline_tasks.collect.source import Source

HTTP: dict[str, Any] = {"type": "http", "url": "https://api.example.com/days", "format": "json", "key": ["date"]}
FILE: dict[str, Any] = {"type": "file", "path": "/data/days.csv", "format": "csv", "key": ["date"]}


def test_the_least_source_has_defaults_that_bound_it() -> None:
    source = Source.model_validate(HTTP)
    assert source.timeouts.run_s < 870, "the queue's soft limit"
    assert source.max_page_bytes == 32 * 2**20
    assert source.typed == {"date": "text"}


def test_every_kind_of_pagination_and_auth_can_be_declared() -> None:
    for pagination in (
        {"type": "none"},
        {"type": "page", "size_param": "per_page", "size": 50},
        {"type": "offset", "size_param": "limit", "size": 50},
        {"type": "cursor", "path": "meta.next"},
        {"type": "link"},
        {"type": "next", "path": "paging.next"},
    ):
        assert Source.model_validate(HTTP | {"pagination": pagination}).pagination.type == pagination["type"]
    for auth in (
        {"type": "header", "value": "s3cret"},
        {"type": "bearer", "token": "s3cret"},
        {"type": "basic", "user": "me", "password": "s3cret"},
    ):
        source = Source.model_validate(HTTP | {"auth": auth})
        assert source.secrets() == ("s3cret",)
        assert "s3cret" not in repr(source)
        assert "s3cret" not in str(source.model_dump_json())


NONSENSE: list[tuple[dict[str, Any], str]] = [
    (HTTP | {"url": "ftp://example.com"}, "https://api.example.com/items"),
    (HTTP | {"url": "https://example.com:99999/"}, "no address"),
    (HTTP | {"url": "https://me:pass@example.com/"}, "auth = {type"),
    (HTTP | {"url": None}, "http has a url"),
    (HTTP | {"path": "/data/x"}, "and no path"),
    (HTTP | {"key": []}, "at least 1"),
    (HTTP | {"key": ["date", "date"]}, "names a field twice"),
    (HTTP | {"key": ["doc"]}, "a column that Beatline keeps"),
    (HTTP | {"columns": {"x" * 64: "text"}}, "1 to 63 bytes"),
    (HTTP | {"columns": {"date": "day"}}, "'text', 'integer'"),
    (HTTP | {"colums": {"date": "date"}}, "Extra inputs"),
    (HTTP | {"headers": {"x": "a\r\nb"}}, "cannot be sent in a header"),
    (HTTP | {"auth": {"type": "bearer", "token": "a\nb"}}, "cannot be sent in a header"),
    (HTTP | {"pagination": {"type": "page", "size": 10}}, "size and size_param go together"),
    (HTTP | {"format": "csv", "records": "data"}, "records is for JSON"),
    (HTTP | {"format": "csv", "pagination": {"type": "next"}}, "reads the body as JSON"),
    (HTTP | {"cursor": {"field": "date"}}, "must be declared in columns"),
    (HTTP | {"columns": {"date": "boolean"}, "cursor": {"field": "date"}}, "with an order"),
    (
        HTTP | {"columns": {"date": "date"}, "cursor": {"field": "date", "tie_break": "id"}},
        "tie_break 'id' must be",
    ),
    (HTTP | {"columns": {"date": "date"}, "cursor": {"field": "date", "overlap": 2}}, "overlap_s?"),
    (HTTP | {"columns": {"n": "integer"}, "cursor": {"field": "n", "overlap_s": 2}}, "for date and timestamp"),
    (FILE | {"path": None}, "file has a path"),
    (FILE | {"format": "json"}, "csv or jsonl"),
    (FILE | {"params": {"a": 1}}, "are for http"),
    (
        FILE | {"columns": {"date": "date"}, "cursor": {"field": "date", "param": "since"}},
        "cursor.param is for http",
    ),
    (FILE | {"csv": {"encoding": "klingon"}}, "is no encoding"),
]


@pytest.mark.parametrize(("spec", "words"), NONSENSE)
def test_nonsense_is_refused_in_words(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Source.model_validate(spec)
    assert words in str(refused.value)


def test_a_secret_does_not_stand_in_the_refusal() -> None:
    with pytest.raises(ValidationError) as refused:
        Source.model_validate(HTTP | {"auth": {"type": "bearer", "token": "hush\nhush"}})
    assert "hush" not in str(refused.value)
