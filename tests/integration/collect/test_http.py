"""Pages over real HTTP: what is sent, what is accepted, and what is said otherwise."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from beatline.clock import monotonic_s
from beatline.errors import AddressRefusedError, TransientError
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.http import Fetcher
from beatline_tasks.collect.source import Source
from support.web import Reply, Web, serve

NOW = {"Retry-After": "0"}
JSON = {"Content-Type": "application/json"}


def source(web: Web, path: str = "/days", **more: Any) -> Source:
    spec: dict[str, Any] = {"type": "http", "url": web.url + path, "format": "json", "key": ["id"]}
    return Source.model_validate(spec | more)


@contextmanager
def fetcher(source: Source, *, allow_private: bool = True) -> Generator[Fetcher]:
    with Fetcher(source, {"Beatline-Run": "r1", "Beatline-Attempt": "2"}, allow_private=allow_private) as fetcher:
        yield fetcher


def get(source: Source, conditional: dict[str, str] | None = None, *, allow_private: bool = True) -> bytes:
    with fetcher(source, allow_private=allow_private) as f, f.get(source.url or "", conditional or {}) as answer:
        return b"not modified" if answer.not_modified else answer.body.read()


def test_every_request_says_which_run_and_attempt_it_is(web: Web) -> None:
    web.answer = lambda _: Reply(b"[]", headers=JSON)
    assert get(source(web, auth={"type": "bearer", "token": "abc"}, headers={"x-own": "1"})) == b"[]"
    headers = web.asked[0].headers
    assert headers["beatline-run"] == "r1"
    assert headers["beatline-attempt"] == "2"
    assert headers["authorization"] == "Bearer abc"
    assert headers["x-own"] == "1"


def test_not_modified_is_an_answer_only_where_it_was_asked_for(web: Web) -> None:
    web.answer = lambda asked: Reply(status=304) if "if-none-match" in asked.headers else Reply(b"[]", headers=JSON)
    assert get(source(web), {"if-none-match": '"1"'}) == b"not modified"
    web.answer = lambda _: Reply(status=304)
    with pytest.raises(SourceError, match="304 Not Modified"):
        get(source(web))


@pytest.mark.parametrize("status", [500, 502, 504, 408])
def test_a_server_in_trouble_may_pass(web: Web, status: int) -> None:
    web.answer = lambda _: Reply(b"oh", status=status, headers={"Content-Type": "text/plain"})
    with pytest.raises(TransientError, match=f"/days answered {status}.*It says: oh"):
        get(source(web))


def test_a_refusal_is_told_without_query_and_secret(web: Web) -> None:
    keyed = source(web, "/days?token=q1", auth={"type": "bearer", "token": "tok3n"})
    web.answer = lambda asked: Reply(f"bad {asked.headers['authorization']}\n\x00!".encode(), status=401)
    with pytest.raises(SourceError) as refused:
        get(keyed)
    assert f"{web.url}/days answered 401 Unauthorized: the source's auth is refused" in str(refused.value)
    assert "It says: bad Bearer *** !" in str(refused.value)
    for secret in ("tok3n", "q1"):
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=404), "answered 404 Not Found: 200 was expected"),
        (Reply(status=403), "auth is missing"),
        (Reply(status=204), "204 No Content: 200 was expected"),
        (
            Reply(b"<html>sign in", headers={"Content-Type": "text/html; charset=x"}),
            "content type is text/html, and json",
        ),
        (Reply(b"x", headers=JSON | {"Content-Encoding": "br"}), "packs its answer as 'br'"),
        (Reply(b"no gzip", headers=JSON | {"Content-Encoding": "gzip"}), "gzip that cannot be unpacked"),
        (Reply(b"x" * 5000, headers=JSON), "has more than 4,096 bytes"),
        (Reply(gzip.compress(b"x" * 5000), headers=JSON | {"Content-Encoding": "gzip"}), "has more than 4,096 bytes"),
        (Reply(status=301, headers={"Location": "ftp://h/"}), "redirects to 'ftp://h/', no address of http"),
        (Reply(status=301, headers={"Location": "http://[bad"}), "no address of http"),
        (Reply(status=302, headers={"Location": "/days"}), "redirects more than 5 times"),
        (Reply(status=300), "answered 300"),
    ],
)
def test_what_a_person_must_mend_fails_at_once(web: Web, reply: Reply, words: str) -> None:
    web.answer = lambda _: reply
    with pytest.raises(SourceError) as refused:
        get(source(web, max_page_bytes=4096))
    assert words in str(refused.value)
    assert len(web.asked) <= 6


def test_expectations_can_be_declared(web: Web) -> None:
    web.answer = lambda _: Reply(b"[]", status=206, headers={"Content-Type": "application/vnd.x"})
    assert get(source(web, expect={"status": [206], "content_types": ["application/vnd.x"]})) == b"[]"


def test_gzip_is_unpacked_however_it_is_cut(web: Web) -> None:
    body = gzip.compress(b"[1,") + gzip.compress(b"2]")
    web.answer = lambda _: Reply(body, headers=JSON | {"Content-Encoding": "gzip"}, drip_s=0.0001)
    assert get(source(web)) == b"[1,2]"


def test_an_answer_that_breaks_off_may_pass(web: Web) -> None:
    web.answer = lambda _: Reply(b"[1", headers=JSON | {"Content-Length": "10"}, whole=False)
    with pytest.raises(TransientError, match="cannot be reached"):
        get(source(web))
    packed = zlib.compress(b"[1,2]", wbits=31)[:-4]
    web.answer = lambda _: Reply(packed, headers=JSON | {"Content-Encoding": "gzip"})
    with pytest.raises(TransientError, match="ended its answer before it was complete"):
        get(source(web))


def test_later_is_obeyed_within_the_run(web: Web) -> None:
    replies = iter((Reply(status=429, headers=NOW), Reply(status=503, headers=NOW), Reply(b"[]", headers=JSON)))
    web.answer = lambda _: next(replies)
    assert get(source(web)) == b"[]"
    assert len(web.asked) == 3


def test_a_later_that_is_too_long_is_a_new_attempt(web: Web) -> None:
    web.answer = lambda _: Reply(status=429, headers={"Retry-After": "120"})
    with pytest.raises(TransientError, match="asks to be called later") as refused:
        get(source(web))
    assert refused.value.retry_after_s == 120
    assert len(web.asked) == 1


def test_later_for_ever_ends(web: Web) -> None:
    web.answer = lambda _: Reply(status=503, headers=NOW)
    with pytest.raises(TransientError):
        get(source(web))
    assert len(web.asked) == 4


def test_a_silent_server_is_given_up(web: Web) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    silent = Web(f"http://127.0.0.1:{listening.getsockname()[1]}")
    with listening, pytest.raises(TransientError, match="did not answer in time"):
        get(source(silent, timeouts={"read_s": 0.2}))


def test_a_dripping_server_is_given_up_whatever_it_drips(web: Web) -> None:
    web.answer = lambda _: Reply(b"[" + b" " * 10_000, headers=JSON, drip_s=0.05)
    begun_s = monotonic_s()
    with pytest.raises(TransientError, match="did not answer in time"):
        get(source(web, timeouts={"page_s": 0.5}))
    assert monotonic_s() - begun_s < 5


def test_a_closed_port_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TransientError, match="cannot be reached"):
        get(source(Web(f"http://127.0.0.1:{port}")))


def test_a_private_address_is_refused_before_anything_is_sent(web: Web) -> None:
    with pytest.raises(AddressRefusedError, match=r"127\.0\.0\.1 is 127\.0\.0\.1, this machine"):
        get(source(web), allow_private=False)
    assert web.asked == []


PUBLIC = "93.184.216.34"


class Internet:
    """Names that resolve as a test says, and a public address behind which the test's server stands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.connected: list[str] = []
        resolve, connect = socket.getaddrinfo, socket.create_connection

        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            answers = self.names.get(host)
            if answers is None:
                return resolve(host, port, *args, **kwargs)
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        def create_connection(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
            self.connected.append(address[0])
            return connect(("127.0.0.1", address[1]) if address[0] == PUBLIC else address, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(socket, "create_connection", create_connection)


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    return Internet(monkeypatch)


def test_every_redirect_is_checked(web: Web, internet: Internet) -> None:
    internet.names["public.example"] = [[PUBLIC]]
    web.answer = lambda _: Reply(status=302, headers={"Location": f"{web.url}/secret"})
    outside = Web(web.url.replace("127.0.0.1", "public.example"))
    with pytest.raises(AddressRefusedError, match=r"127\.0\.0\.1 is 127\.0\.0\.1, this machine"):
        get(source(outside), allow_private=False)
    assert [asked.path for asked in web.asked] == ["/days"]


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(web: Web, internet: Internet) -> None:
    """A name that answers publicly first and with loopback afterwards (DNS rebinding) gains nothing."""
    internet.names["rebinding.example"] = [[PUBLIC], ["127.0.0.1"]]
    web.answer = lambda _: Reply(b"[]", headers=JSON)
    get(source(Web(web.url.replace("127.0.0.1", "rebinding.example"))), allow_private=False)
    assert internet.connected == [PUBLIC]
    assert web.asked[0].headers["host"].startswith("rebinding.example:")


def test_one_private_address_among_public_ones_is_refused(web: Web, internet: Internet) -> None:
    internet.names["mixed.example"] = [[PUBLIC, "10.0.0.1"]]
    with pytest.raises(AddressRefusedError, match=r"mixed\.example is 10\.0\.0\.1, a private"):
        get(source(Web(web.url.replace("127.0.0.1", "mixed.example"))), allow_private=False)
    assert internet.connected == []


def test_the_next_address_of_a_host_is_tried(web: Web, internet: Internet) -> None:
    internet.names["two.example"] = [["127.0.0.2", PUBLIC]]
    web.answer = lambda _: Reply(b"[]", headers=JSON)
    assert get(source(Web(web.url.replace("127.0.0.1", "two.example")))) == b"[]"
    assert internet.connected == ["127.0.0.2", PUBLIC]


def test_another_host_gets_no_keys(web: Web) -> None:
    with serve() as other:
        other.answer = lambda _: Reply(b"[]", headers=JSON)
        web.answer = lambda _: Reply(status=307, headers={"Location": other.url + "/moved"})
        keyed = source(web, auth={"type": "header", "name": "x-key", "value": "abc"}, headers={"x-more": "1"})
        assert get(keyed) == b"[]"
        assert web.asked[0].headers["x-key"] == "abc"
        assert other.asked[0].path == "/moved"
        assert not {"x-key", "x-more", "authorization"} & set(other.asked[0].headers)


def test_proxies_of_the_environment_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    web.answer = lambda _: Reply(b"[]", headers=JSON)
    assert get(source(web)) == b"[]"


def test_a_certificate_that_cannot_be_verified_is_told(web: Web) -> None:
    with pytest.raises(TransientError, match="cannot be reached"):
        get(source(Web(web.url.replace("http://", "https://"))))
