"""Runs of a source against a real server and a real database."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.definitions import store
from beatline.definitions.lock import definition_lock
from beatline.errors import AddressRefusedError, NotFoundError, SecretError, ServiceError, TransientError
from beatline.ledger.database import sql
from beatline.task.context import RunContext
from beatline_tasks.collect.collecting import collect
from beatline_tasks.collect.errors import SourceError
from support.processes import variables_of
from support.serving import MakeSettings
from support.waiting import wait_until
from support.web import Asked, Reply, Web

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddSource = Callable[..., "Definition"]
JSON = {"Content-Type": "application/json"}


def run(number: int = 1) -> RunContext:
    return RunContext(f"run-{number}", 1, 0, "collect.execute_task", "collect", None, None)


def collected(installation: Installation, name: str, number: int = 1) -> dict[str, Any]:
    result = collect(installation, name, run(number))
    assert isinstance(result, dict)
    return result


def days(numbers: range) -> list[dict[str, Any]]:
    return [{"day": n, "temp": n / 2, "note": f"day {n}"} for n in numbers]


def in_dataset(installation: Installation, table: str = "days") -> list[int]:
    with installation.engine.connect() as conn:
        return list(conn.execute(sql(conn, f"SELECT day FROM {{data}}.{table} ORDER BY day")).scalars())  # noqa: S608


def feed(web: Web, rows: list[dict[str, Any]], size: int = 10) -> None:
    """Serve rows in pages with the next page's address in the body, from `since` on."""

    def answer(asked: Asked) -> Reply:
        since, at = int(asked.query.get("since", -1)), int(asked.query.get("at", 0))
        wanted = [row for row in rows if row["day"] >= since]
        following = f"/days?since={since}&at={at + size}" if at + size < len(wanted) else None
        return Reply(json.dumps({"items": wanted[at : at + size], "next": following}).encode(), headers=JSON)

    web.answer = answer


@pytest.fixture
def weather(web: Web, add_source: AddSource) -> Callable[..., Definition]:
    def add(name: str = "days", **more: Any) -> Definition:
        spec: dict[str, Any] = {
            "type": "http",
            "url": f"{web.url}/days",
            "format": "json",
            "records": "items",
            "pagination": {"type": "next"},
            "key": ["day"],
            "columns": {"day": "integer", "temp": "number"},
            "cursor": {"field": "day", "param": "since"},
        }
        return add_source(name, **(spec | more))

    return add


def test_running_twice_adds_nothing(web: Web, open_installation: Installation, weather: Any) -> None:
    weather()
    feed(web, days(range(25)))
    assert collected(open_installation, "days") == {"pages": 3, "rows": 25, "new": 25, "changed": 0, "refused": 0}
    assert collected(open_installation, "days", 2) == {"pages": 1, "rows": 1, "new": 0, "changed": 0, "refused": 0}
    assert web.asked[-1].query == {"since": "24"}
    assert in_dataset(open_installation) == list(range(25))


def test_a_source_goes_by_its_id_too(web: Web, open_installation: Installation, weather: Any) -> None:
    definition = weather()
    feed(web, days(range(3)))
    assert collected(open_installation, str(definition.id))["new"] == 3
    with pytest.raises(NotFoundError, match="Did you mean days"):
        collect(open_installation, "dayz", run())


def test_the_overlap_finds_late_rows(web: Web, open_installation: Installation, weather: Any) -> None:
    weather(cursor={"field": "day", "param": "since", "overlap": 5})
    feed(web, days(range(0, 20, 2)))
    collected(open_installation, "days")
    feed(web, sorted(days(range(0, 20, 2)) + days(range(15, 16)), key=lambda row: row["day"]))
    assert collected(open_installation, "days", 2)["new"] == 1
    assert 15 in in_dataset(open_installation)


def breaks_on_page(web: Web, page: int) -> None:
    whole = web.answer

    def answer(asked: Asked) -> Reply:
        return whole(asked) if int(asked.query.get("at", 0)) < (page - 1) * 10 else Reply(status=500)

    web.answer = answer


def test_an_unordered_source_that_breaks_off_has_stored_nothing(
    web: Web, open_installation: Installation, weather: Any
) -> None:
    weather()
    rows = days(range(25))[::-1]
    feed(web, rows)
    breaks_on_page(web, 3)
    with pytest.raises(TransientError):
        collect(open_installation, "days", run())
    assert in_dataset(open_installation) == []
    feed(web, rows)
    assert collected(open_installation, "days", 2)["new"] == 25


def test_an_ordered_source_goes_on_where_it_broke_off(web: Web, open_installation: Installation, weather: Any) -> None:
    weather(cursor={"field": "day", "param": "since", "ordered": True})
    feed(web, days(range(25)))
    breaks_on_page(web, 3)
    with pytest.raises(TransientError):
        collect(open_installation, "days", run())
    assert in_dataset(open_installation) == list(range(20))
    feed(web, days(range(25)))
    assert collected(open_installation, "days", 2)["new"] == 5
    assert web.asked[-1].query == {"since": "19"}


def test_an_ordered_source_that_is_not_starts_again(web: Web, open_installation: Installation, weather: Any) -> None:
    definition = weather(cursor={"field": "day", "param": "since", "ordered": True})
    feed(web, [*days(range(10, 20)), *days(range(5))])
    with pytest.raises(SourceError, match=r"came after one with 19.*cursor\.ordered = false"):
        collect(open_installation, "days", run())
    with open_installation.engine.connect() as conn:
        assert "cursor" not in store.load_state(conn, definition)


def test_too_many_pages_fail_or_go_on_next_time(web: Web, open_installation: Installation, weather: Any) -> None:
    feed(web, days(range(25)))
    weather(max_pages=2)
    with pytest.raises(SourceError, match="more than 2 pages"):
        collect(open_installation, "days", run())
    weather("steps", max_pages=2, cursor={"field": "day", "param": "since", "ordered": True})
    assert collected(open_installation, "steps")["more"] is True
    assert "more" not in collected(open_installation, "steps", 2)
    assert in_dataset(open_installation, "steps") == list(range(25))


def test_bad_rows_are_refused_and_counted(web: Web, open_installation: Installation, weather: Any) -> None:
    weather()
    feed(web, days(range(8)))
    good = web.answer
    bad: list[Any] = [{"day": "x"}, {"temp": 1}, [], {"day": 9, "temp": "warm"}]
    web.answer = lambda asked: Reply(
        json.dumps({"items": bad + json.loads(good(asked).body)["items"]}).encode(), headers=JSON
    )
    result = collected(open_installation, "days")
    assert (result["new"], result["refused"]) == (8, 4)
    assert result["reasons"][0] == "row 1: day: 'x' is no integer of 64 bits"
    assert len(result["reasons"]) == 3


def test_a_page_without_one_good_row_fails(web: Web, open_installation: Installation, weather: Any) -> None:
    weather()
    web.answer = lambda _: Reply(b'{"items": [{"a": 1}, {"a": 2}]}', headers=JSON)
    with pytest.raises(SourceError, match=r"No row of page 1 of .*/days can be stored: 2 refused \(row 1: the key"):
        collect(open_installation, "days", run())


def test_what_has_not_changed_is_not_read(web: Web, open_installation: Installation, weather: Any) -> None:
    weather(pagination={"type": "none"}, cursor=None)
    tagged = {"ETag": '"1"', "Last-Modified": "Sun, 22 Nov 2026 12:00:00 GMT"}

    def answer(asked: Asked) -> Reply:
        if asked.headers.get("if-none-match") == '"1"':
            return Reply(status=304, headers=tagged)
        return Reply(json.dumps({"items": days(range(3))}).encode(), headers=JSON | tagged)

    web.answer = answer
    assert collected(open_installation, "days")["new"] == 3
    assert web.asked[0].headers.get("if-modified-since") is None
    for number in (2, 3):
        assert collected(open_installation, "days", number)["not_modified"] is True
        assert web.asked[-1].headers["if-modified-since"] == tagged["Last-Modified"]
    with open_installation.engine.begin() as conn:
        conn.execute(sql(conn, "DROP TABLE {data}.days"))
    assert collected(open_installation, "days", 4)["new"] == 3, "an empty dataset is filled, whatever the server's tag"


def test_a_first_page_that_has_not_changed_says_nothing_of_the_others(
    web: Web, open_installation: Installation, weather: Any
) -> None:
    weather(cursor=None)
    feed(web, days(range(25)))
    untagged = web.answer
    web.answer = lambda asked: Reply(untagged(asked).body, headers=JSON | {"ETag": '"same"'})
    collected(open_installation, "days")
    collected(open_installation, "days", 2)
    assert not [asked for asked in web.asked if "if-none-match" in asked.headers]


def test_no_content_is_no_rows_where_it_is_expected(web: Web, open_installation: Installation, weather: Any) -> None:
    weather(expect={"status": [200, 204]})
    web.answer = lambda _: Reply(status=204)
    assert collected(open_installation, "days") == {"pages": 1, "rows": 0, "new": 0, "changed": 0, "refused": 0}


@pytest.mark.parametrize(
    ("body", "more", "words"),
    [
        (b'{"items": [{"day": 1}], "next": "/days"}', {}, "was read before in this run: a circle"),
        (b'{"items": [{"day": 1}]}', {"pagination": {"type": "page"}}, "does not take the parameter 'page'"),
    ],
)
def test_pages_that_go_round_are_found(
    web: Web, open_installation: Installation, weather: Any, body: bytes, more: dict[str, Any], words: str
) -> None:
    weather(**more)
    web.answer = lambda _: Reply(body, headers=JSON)
    with pytest.raises(SourceError, match=words):
        collect(open_installation, "days", run())


def test_one_run_of_a_source_at_a_time(web: Web, open_installation: Installation, weather: Any) -> None:
    definition = weather()
    feed(web, days(range(3)))
    with definition_lock(open_installation.engine, definition, run(1)) as held:
        assert held is not None
        assert collect(open_installation, "days", run(2)) == "busy"
    assert not web.asked
    assert collected(open_installation, "days", 2)["new"] == 3


LOSE_LOCKS = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def test_a_run_that_lost_its_lock_writes_nothing(web: Web, open_installation: Installation, weather: Any) -> None:
    weather()
    feed(web, days(range(3)))
    whole = web.answer

    def answer(asked: Asked) -> Reply:
        with open_installation.engine.begin() as conn:
            conn.execute(text(LOSE_LOCKS))
        return whole(asked)

    web.answer = answer
    with pytest.raises(TransientError, match="lock was lost"):
        collect(open_installation, "days", run())
    assert in_dataset(open_installation) == []


KILLED = """
from beatline.installation import Installation
from beatline.task.context import RunContext
from beatline_tasks.collect.collecting import collect
collect(Installation.load(), "days", RunContext("killed", 1, 0, "collect.execute_task", "collect", None, None))
"""


@pytest.mark.parametrize(("ordered", "kept"), [(True, 20), (False, 0)])
def test_a_killed_run_leaves_whole_pages_and_no_lock(
    web: Web, open_installation: Installation, weather: Any, ordered: bool, kept: int
) -> None:
    """P3: SIGKILL between two pages; the next run reads what is missing."""
    weather(cursor={"field": "day", "param": "since", "ordered": ordered})
    feed(web, days(range(45)))
    whole, in_the_middle, killed = web.answer, threading.Event(), threading.Event()

    def answer(asked: Asked) -> Reply:
        if asked.headers["beatline-run"] == "killed" and asked.query.get("at") == "20":
            in_the_middle.set()
            killed.wait(20)
        return whole(asked)

    web.answer = answer
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=variables_of(open_installation.settings))
    try:
        assert in_the_middle.wait(30)
    finally:
        process.kill()
        process.wait()
    killed.set()
    assert in_dataset(open_installation) == list(range(kept))
    result = wait_until(
        lambda: (r := collect(open_installation, "days", run(2))) != "busy" and r, what="the lock is free"
    )
    assert isinstance(result, dict)
    assert result["new"] == 45 - kept
    assert in_dataset(open_installation) == list(range(45))


def test_a_key_that_a_process_lacks_fails_its_runs_in_words_and_the_others_run(
    web: Web, open_installation: Installation, weather: Any
) -> None:
    from beatline.installation import Installation
    from beatline.secrets import new_key

    feed(web, days(range(3)))
    weather("locked", auth={"type": "bearer", "token": "abc"})
    weather("free")
    stranger = Installation(open_installation.settings.replaced(secret_keys=new_key()))
    with pytest.raises(
        ServiceError, match=r"Source 'locked': .* the key '\w+', which BEATLINE_SECRET_KEYS does not hold"
    ):
        collect(stranger, "locked", run())
    assert collected(stranger, "free")["new"] == 3
    assert collected(open_installation, "locked")["rows"] == 3  # who has the key goes on


def test_a_source_whose_key_is_wrong_is_parked_and_the_others_run(
    web: Web, open_installation: Installation, weather: Any
) -> None:
    from beatline.installation import Installation
    from beatline.secrets import new_key

    feed(web, days(range(3)))
    weather("locked", auth={"type": "bearer", "token": "abc"})
    weather("free")
    ours = open_installation.keyring.first
    stranger = Installation(open_installation.settings.replaced(secret_keys=f"{ours}:{new_key().partition(':')[2]}"))
    with pytest.raises(SecretError, match=r"Source 'locked': .* does not open"):
        collect(stranger, "locked", run())
    with pytest.raises(SourceError, match=r"Source 'locked' is parked: .*sources check locked"):
        collect(open_installation, "locked", run())
    assert collected(stranger, "free")["new"] == 3


def test_private_addresses_are_refused_unless_a_setting_allows_them(
    installation: Installation, web: Web, weather: Any
) -> None:
    weather()
    with pytest.raises(AddressRefusedError, match="BEATLINE_ALLOW_PRIVATE_ADDRESSES"):
        collect(installation, "days", run())
    assert not web.asked


def test_a_database_that_does_not_answer_may_pass(open_installation: Installation, make_settings: MakeSettings) -> None:
    from beatline.installation import Installation

    closed = Installation(make_settings(database_url="postgresql://nobody:x@127.0.0.1:1/none"))
    with pytest.raises(ServiceError, match=r"PostgreSQL at 127\.0\.0\.1:1/none does not answer"):
        collect(closed, "days", run())


def test_a_file_is_read_again_only_when_it_has_changed(
    open_installation: Installation, add_source: AddSource, tmp_path: Path
) -> None:
    path = tmp_path / "days.csv"
    spec: dict[str, Any] = {"columns": {"day": "integer", "temp": "number"}, "key": ["day"], "format": "csv"}
    add_source("days", type="file", path=str(path), cursor={"field": "day", "ordered": True}, **spec)
    with pytest.raises(SourceError, match="There is no file"):
        collect(open_installation, "days", run())
    path.write_text("day,temp,note\n1,1.5,\n2,,wet\n")
    assert collected(open_installation, "days")["new"] == 2
    assert collected(open_installation, "days", 2)["not_modified"] is True
    with path.open("a") as file:
        file.write("3,4,\n")
    assert collected(open_installation, "days", 3) == {
        "pages": 1,
        "rows": 3,
        "new": 1,
        "changed": 0,
        "refused": 0,
        "known": 1,
    }
    assert in_dataset(open_installation) == [1, 2, 3]
