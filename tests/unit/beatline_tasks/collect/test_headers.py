"""What goes along with a request, and what may not come out of it again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine

from beatline_tasks.collect.headers import mask_secrets, own_headers, retry_after_s
from beatline_tasks.collect.source import Source

URL = "https://api.example.com/days"


def source(**more: Any) -> Source:
    spec: dict[str, Any] = {"type": "http", "url": URL, "format": "json", "key": ["id"]}
    return Source.model_validate(spec | more)


@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        ({"type": "header", "name": "X-Key", "value": "abc"}, {"X-Key": "abc"}),
        ({"type": "bearer", "token": "abc"}, {"authorization": "Bearer abc"}),
        ({"type": "basic", "user": "me", "password": "pä:ss"}, {"authorization": "Basic bWU6cMOkOnNz"}),
    ],
)
def test_auth_is_sent_to_the_source_and_to_no_other_host(auth: dict[str, str], sent: dict[str, str]) -> None:
    keyed = source(auth=auth, headers={"x-more": "1"})
    for same in (URL, "https://API.example.com:443/other?page=2"):
        assert own_headers(keyed, same) == sent | {"x-more": "1"}
    for other in ("https://evil.example.com/days", "http://api.example.com/days", "https://api.example.com:8443/"):
        assert own_headers(keyed, other) == {}


def test_secrets_are_taken_out_of_what_a_server_says() -> None:
    basic = source(auth={"type": "basic", "user": "me", "password": "hunter2"})
    assert mask_secrets("no hunter2, no bWU6aHVudGVyMg==", basic) == "no ***, no ***"
    assert mask_secrets("plain", source()) == "plain"


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("9" * 40, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, expected_s: float | None) -> None:
    with time_machine.travel(datetime(2026, 11, 22, 12, tzinfo=UTC), tick=False):
        assert retry_after_s(header) == expected_s
