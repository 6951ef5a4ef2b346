"""What a hostile or careless client sends is answered with a problem, and the next request as if nothing had been."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import httpx

from beatline.settings import Settings
from support.problems import said
from support.processes import Spawned

JSON: Final = {"Content-Type": "application/json"}
BODIES: Final[tuple[tuple[bytes, int, str], ...]] = (
    (b"", 422, "is needed"),
    (b"{", 422, "the body is not JSON"),
    (b"null", 422, ""),
    (b"[]", 422, ""),
    (b'"text"', 422, ""),
    (b"\xff\xfe\x00", 400, "cannot be read as JSON"),
    (b'{"name": "\\ud800", "task": "t", "every": "5m"}', 422, "not allowed"),
    (b'{"name": "x", "task": "test.add", "every": 1e999}', 422, "every"),
    (b'{"name": "x", "task": "test.add", "every": NaN}', 422, "every"),
    (b'{"name": "x", "task": "test.add", "every": "5m", "args": [NaN]}', 422, "JSON cannot hold"),
    (b'{"a":' * 20_000, 422, ""),
    (b"[" * 100_000, 400, "cannot be read as JSON"),
    (b'{"name": ' + b"9" * 10_000 + b"}", 400, "cannot be read as JSON"),
)


def test_a_body_that_is_no_good_is_a_problem(client: httpx.Client, api: Spawned) -> None:
    for body, status, words in BODIES:
        answer = client.post("schedules", content=body, headers=JSON)
        assert answer.status_code in (status, 400, 422), (body[:40], answer.text)
        assert words in said(answer, answer.status_code)["detail"] or answer.status_code != status, body[:40]
    assert client.get("schedules").json() == {"items": []}
    assert "request failed" not in api.output()


def test_only_json_is_read(client: httpx.Client) -> None:
    for media in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
    ):
        told = said(client.post("schedules", content=b"{}", headers={"Content-Type": media}), 415)
        assert "Content-Type: application/json" in told["detail"]
    said(client.post("schedules", content=b"{}"), 415)


def test_a_large_body_is_refused_however_it_is_sent(client: httpx.Client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    for content in (b"x" * 10_000_000, parts(), b"x" * (256 * 1024 + 1)):
        assert "262,144 bytes" in said(client.post("schedules", content=content, headers=JSON), 413)["detail"]
    wrong = {"Authorization": "Bearer x"}
    said(client.post("schedules", content=b"x" * 10_000_000, headers=JSON | wrong), 401)
    assert client.get("schedules").status_code == 200


def test_addresses_that_are_no_good_are_problems(client: httpx.Client, api: Spawned) -> None:
    for path, status in (
        ("tasks/%00", 400), ("tasks?text=%00", 400), ("schedules/a%00b", 400), ("schedules/%ff%fe", 404),
        ("schedules/'%20OR%201=1%20--", 404), ("schedules/..%2f..%2fetc", 404), ("schedules/%0d%0aX-Evil:1", 404),
        ("tasks?cursor=" + "%F0%9F%92%A3" * 20, 422), ("tasks?limit=1&limit=2", 200), ("tasks?nonsense=1", 200),
        ("nowhere", 404), ("tasks/" + "a/" * 200, 404), ("schedules/nope/next?count=0", 422),
        ("schedules/nope/next?count=99999999999999999999", 422),
    ):  # fmt: skip
        answer = client.get(path)
        if status == 200:
            assert answer.status_code == 200
        else:
            told = said(answer, status)
            assert "X-Evil" not in answer.headers
            assert told["detail"]
    assert "request failed" not in api.output()


def test_methods_that_a_route_does_not_know_are_named(client: httpx.Client) -> None:
    for method in ("PUT", "OPTIONS", "TRACE", "BREW", "HEAD"):
        answer = client.request(method, "schedules")
        assert answer.status_code == 405
        assert answer.headers["Allow"]
        if method != "HEAD":
            said(answer, 405)


def test_no_site_of_another_origin_may_read_an_answer(client: httpx.Client) -> None:
    answer = client.get("tasks", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "server" not in answer.headers
    assert client.options("tasks", headers={"Access-Control-Request-Method": "POST"}).status_code == 405


def test_words_that_no_text_holds_are_refused(client: httpx.Client) -> None:
    client.post("schedules", json={"name": "job", "task": "test.anything", "every": "5m"})
    for reason in (b'"a\\u0000b"', b'"\\ud800"', b'"' + b"x" * 2000 + b'"', b"7"):
        answer = client.post("schedules/job/pause", content=b'{"reason": ' + reason + b"}", headers=JSON)
        assert "reason" in said(answer, 422)["detail"]
    assert client.get("schedules/job").json()["state"] == "active"


def test_what_is_no_http_does_not_stop_it(settings: Settings, client: httpx.Client) -> None:
    for sent in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000, b"GET /\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", settings.api_port), timeout=5) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert b"200" not in plain.recv(100)
    assert client.get("schedules").status_code == 200


def test_fifty_at_once_are_all_answered(settings: Settings, client: httpx.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(50) as many:
        asked = [many.submit(client.get, "tasks") for _ in range(100)]
        told = [one.result().status_code for one in asked]
    assert told == [200] * 100
