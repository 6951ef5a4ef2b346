"""maintenance.warm_cache: real queries and addresses into a real Redis; what fails is named, the rest is warmed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.clock import monotonic_s
from beatline.errors import TransientError
from beatline_tasks.maintenance.errors import MaintenanceError
from support.web import Asked, Reply, Web, serve

if TYPE_CHECKING:
    from beatline.installation import Installation

Call = Callable[..., dict[str, Any]]
TASK = "warm_cache"
TOP: dict[str, Any] = {
    "key": "top",
    "connection": "reader",
    "query": "SELECT n, 'x:y %' AS t FROM generate_series(1, 2) n -- all",
}


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on loopback."""
    with serve() as web:
        yield web


def cached(installation: Installation, key: str) -> str | None:
    found: str | None = installation.redis.get(installation.keys.cache(key))
    return found


def test_queries_and_addresses_are_put_under_a_clear_prefix_with_a_ttl(
    warehouse: Installation, call: Call, web: Web
) -> None:
    web.answer = lambda _: Reply("{'é'}".encode())
    rates = {"key": "rates", "url": f"{web.url}/rates?day=1", "ttl_s": 20}
    done = call(TASK, entries=[TOP, rates], ttl_s=60)
    assert (done["warmed"], done["failed"]) == (2, {})
    assert json.loads(str(cached(warehouse, "top"))) == [{"n": 1, "t": "x:y %"}, {"n": 2, "t": "x:y %"}]
    assert cached(warehouse, "rates") == "{'é'}"
    prefix = warehouse.settings.key_prefix
    assert 55 < warehouse.redis.ttl(f"{prefix}cache:top") <= 60
    assert 15 < warehouse.redis.ttl(f"{prefix}cache:rates") <= 20


def test_what_fails_is_named_and_the_rest_is_warmed(warehouse: Installation, call: Call, web: Web) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/moved":
            return Reply(status=302, headers={"Location": "/large"})
        return Reply(b"x" * 5000) if asked.path == "/large" else Reply(status=404)

    web.answer = answer
    warehouse.redis.set(warehouse.keys.cache("gone"), "of before", ex=60)
    entries = [
        {"key": "gone", "url": f"{web.url}/gone"},
        {"key": "large", "url": f"{web.url}/moved"},
        {"key": "down", "url": "http://127.0.0.1:1/"},
        {"key": "typo", "connection": "reader", "query": "SELECT 1 FRM x y"},
        {"key": "writes", "connection": "warehouse", "query": "SELECT nextval('nothing')"},
        {"key": "many", "connection": "reader", "query": "SELECT repeat('x', 900) FROM generate_series(1, 99)"},
        {"key": "nobody", "connection": "nobody", "query": "SELECT 1"},
        TOP,
    ]
    done = call(TASK, entries=entries, max_bytes=4000)
    assert done["warmed"] == 1
    said = done["failed"]
    assert list(said) == ["gone", "large", "down", "typo", "writes", "many", "nobody"]
    assert "answered 404" in said["gone"]
    assert said["large"] == said["many"] == "it has more than 4,000 bytes (max_bytes)"
    assert "cannot be read" in said["down"]
    assert "syntax error" in said["typo"]
    assert "does not exist" in said["writes"]
    assert "no connection 'nobody'" in said["nobody"]
    assert cached(warehouse, "gone") == "of before"
    assert cached(warehouse, "top") is not None


def test_a_run_that_warms_nothing_fails_and_may_pass_if_all_of_it_may(call: Call) -> None:
    with pytest.raises(MaintenanceError, match=r"typo: query: syntax error"):
        call(TASK, entries=[{"key": "typo", "connection": "reader", "query": "SELECT 1 FRM x y"}])
    with pytest.raises(TransientError, match="cannot be resolved"):
        call(TASK, entries=[{"key": "name", "url": "http://rates.invalid/"}])


def test_private_addresses_are_refused(installation: Installation, web: Web) -> None:
    from beatline_tasks.maintenance.warming import warm

    request = {"entries": [{"key": "a", "url": web.url}], "ttl_s": 60, "max_bytes": 100}
    with pytest.raises(MaintenanceError, match="BEATLINE_ALLOW_PRIVATE_ADDRESSES"):
        warm(installation, request)
    assert web.asked == []


def test_packed_answers_are_refused(call: Call, web: Web) -> None:
    web.answer = lambda _: Reply(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    with pytest.raises(MaintenanceError, match="or packed what it sent"):
        call(TASK, entries=[{"key": "a", "url": web.url}])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"entries": []}, "entries: List should have at least 1"),
        ({"entries": "top"}, "entries: "),
        ({"entries": [{"key": "a b", "url": "http://h/"}]}, "entries.0.key: letters, digits"),
        ({"entries": [{"key": "a"}]}, "query or url: an entry has one of them"),
        ({"entries": [TOP | {"url": "http://h/"}]}, "query or url: an entry has one of them"),
        ({"entries": [{"key": "a", "query": "SELECT 1"}]}, "connection and query: go together"),
        ({"entries": [TOP | {"query": "SELEC 1"}]}, "entries.0.query: is no SELECT: it begins with 'selec'"),
        ({"entries": [TOP | {"query": "SELECT 1; SELECT 2"}]}, "entries.0.query: holds a second statement"),
        ({"entries": [{"key": "a", "url": "ftp://h/"}]}, "url: must be an address such as"),
        ({"entries": [{"key": "a", "url": "http://u:hush@h/"}]}, "must not carry a password"),
        ({"entries": [TOP, TOP]}, "the key top stands in two of them"),
        ({"entries": [TOP | {"ttl": 5}]}, "entries.0.ttl: is no field of it"),
        ({"entries": [TOP], "ttl_s": 0}, "ttl_s: must be greater than or equal to 1"),
        ({"entries": [TOP], "ttl_s": "60"}, "ttl_s: "),
        ({"entries": [TOP], "max_bytes": 10**9}, "max_bytes: "),
    ],
)
def test_nonsense_is_refused_by_field(call: Call, given: dict[str, Any], words: str) -> None:
    with pytest.raises(MaintenanceError) as refused:
        call(TASK, **given)
    assert words in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_query_cannot_leave_its_parentheses_nor_write(warehouse: Installation, call: Call) -> None:
    """A COMMIT would end the transaction that forbids writing."""
    escape = (
        "SELECT 1) AS q; COMMIT; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; BEGIN READ WRITE; "
        "CREATE TABLE public.written AS SELECT 1 AS a; COMMIT; BEGIN; "
        "DECLARE c CURSOR FOR SELECT row_to_json(q)::text FROM (SELECT 1 AS x"
    )
    with pytest.raises(MaintenanceError, match="query: closes a parenthesis that it did not open"):
        call(TASK, entries=[TOP | {"query": escape}])
    with warehouse.engine.begin() as conn:
        conn.execute(text("CREATE SEQUENCE public.numbers"))
    for connection in ("reader", "warehouse"):
        with pytest.raises(MaintenanceError, match="in a read-only transaction"):
            call(TASK, entries=[TOP | {"connection": connection, "query": "SELECT nextval('public.numbers')"}])
    with warehouse.engine.connect() as conn:
        assert conn.execute(text("SELECT to_regclass('public.written')")).scalar_one() is None


def test_the_time_of_an_entry_is_that_of_all_its_rows(warehouse: Installation) -> None:
    from beatline_tasks.maintenance.warming import warm

    slow = TOP | {"query": "SELECT n, pg_sleep(0.002)::text FROM generate_series(1, 6000) n"}  # a second for 500 rows
    begun_s = monotonic_s()
    with pytest.raises(MaintenanceError, match="top: the query took longer than 2 s"):
        warm(warehouse, {"entries": [slow], "ttl_s": 60, "max_bytes": 10**6}, longest_s=2)
    assert monotonic_s() - begun_s < 8


def test_one_run_ends_in_time(warehouse: Installation) -> None:
    from beatline_tasks.maintenance.warming import warm

    with pytest.raises(MaintenanceError, match="the time for one run was over"):
        warm(warehouse, {"entries": [TOP], "ttl_s": 60, "max_bytes": 100}, longest_s=-1)
