"""Which request follows which answer."""

from __future__ import annotations

from typing import Any

import pytest

from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.pagination import Seen, dig, first_url, next_link, next_url, with_params, without_query
from beatline_tasks.collect.source import Source

URL = "https://api.example.com/days?lang=en"


def paged(pagination: dict[str, Any], **more: Any) -> Source:
    spec = {"type": "http", "url": URL, "format": "json", "key": ["id"], "pagination": pagination}
    return Source.model_validate(spec | more)


def seen(url: str, *, number: int = 0, rows: int = 10, total: int = 10, body: object = None, link: str = "") -> Seen:
    return Seen(number, url, url, rows, total, body, link)


def test_parameters_are_set_beside_those_of_the_address() -> None:
    assert with_params("http://h/p?a=1&a=2&b=&page=9#x", {"page": 2, "q": "ü &", "on": True}) == (
        "http://h/p?a=1&a=2&b=&page=2&q=%C3%BC+%26&on=true"
    )


def test_a_message_shows_no_query() -> None:
    assert without_query("https://h/p?token=abc#f") == "https://h/p"


def test_the_first_request_carries_params_size_and_cursor() -> None:
    source = paged({"type": "page", "size_param": "per", "size": 50}, params={"q": "x"})
    assert first_url(source, {"since": "2012-01-01"}) == f"{URL}&q=x&since=2012-01-01&page=1&per=50"


def test_pages_are_counted_until_one_is_empty() -> None:
    source = paged({"type": "page", "start": 0})
    assert first_url(source, {}) == f"{URL}&page=0"
    assert next_url(source, seen(f"{URL}&page=0", number=0)) == f"{URL}&page=1"
    assert next_url(source, seen(f"{URL}&page=1", number=1, rows=0)) is None


def test_an_offset_counts_the_rows_that_came_not_those_that_were_asked_for() -> None:
    source = paged({"type": "offset", "size_param": "limit", "size": 1000})
    assert next_url(source, seen(f"{URL}&limit=1000", rows=100, total=300)) == f"{URL}&limit=1000&offset=300"


def test_a_token_in_the_body_is_sent_back() -> None:
    source = paged({"type": "cursor", "path": "meta.next", "param": "after"})
    assert next_url(source, seen(URL, body={"meta": {"next": "a+b="}})) == f"{URL}&after=a%2Bb%3D"
    assert next_url(source, seen(URL, body={"meta": {"next": 0}})) == f"{URL}&after=0"
    for end in (None, "", False):
        assert next_url(source, seen(URL, body={"meta": {"next": end}})) is None


def test_a_next_address_may_be_relative() -> None:
    source = paged({"type": "next", "path": "next"})
    assert next_url(source, seen(URL, body={"next": "/days?p=2"})) == "https://api.example.com/days?p=2"
    assert next_url(source, seen(URL, body={})) is None


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://", "http://[", "http://h:99999999/", "javascript:x"])
def test_a_next_address_of_another_kind_is_refused(target: str) -> None:
    with pytest.raises(SourceError, match="no address of http or https"):
        next_url(paged({"type": "next"}), seen(URL, body={"next": target}))


def test_a_next_that_is_no_text_is_refused() -> None:
    with pytest.raises(SourceError, match="no text at 'next'"):
        next_url(paged({"type": "next"}), seen(URL, body={"next": {"href": "/x"}}))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('<https://h/2>; rel="next"', "https://h/2"),
        ('<https://h/1>; rel="prev", <https://h/3>; title="a, b"; rel="last next"', "https://h/3"),
        ("<https://h/2>; rel=next", "https://h/2"),
        ('<?p=2,3>; REL="NEXT"', "?p=2,3"),
        ('<https://h/1>; rel="prev"', None),
        ("", None),
        ("nonsense; rel=next", None),
    ],
)
def test_a_link_header_names_the_next_page(header: str, expected: str | None) -> None:
    assert next_link(header) == expected


def test_a_path_goes_through_objects_and_lists() -> None:
    body = {"data": {"items": [{"id": 7}]}}
    assert dig(body, "data.items.0.id") == 7
    assert dig(body, "data.items.9.id") is None
    assert dig(body, "data.items.id") is None
    assert dig([1], "") == [1]
