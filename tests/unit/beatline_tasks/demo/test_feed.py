"""The demo's feed: pages, tags, trouble, and a log of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from beatline_tasks.demo.feed import PAGE_ROWS, Feed, page_of, trouble
from beatline_tasks.demo.feedlog import FeedLog, read_log
from beatline_tasks.demo.show import SEED
from beatline_tasks.demo.weather import all_days
from support.waiting import wait_until

DAYS = all_days()


def test_pages_lead_to_every_day_once() -> None:
    found: list[str] = []
    query: dict[str, list[str]] = {}
    while True:
        reply = page_of(DAYS, query, None)
        found += [day.date.isoformat() for day in reply.rows]
        if reply.following is None:
            break
        query = {"after": [reply.following.partition("after=")[2]]}
    assert found == [day.date.isoformat() for day in DAYS]


def test_a_page_from_a_day_on_includes_it() -> None:
    reply = page_of(DAYS[:10], {"since": ["2012-01-09"]}, None)
    assert [day.date.day for day in reply.rows] == [9, 10]
    assert reply.following is None


def test_a_tag_says_whether_anything_is_new() -> None:
    first = page_of(DAYS[:5], {"since": ["2012-01-04"]}, None)
    assert page_of(DAYS[:5], {"since": ["2012-01-04"]}, first.etag).status == 304
    assert page_of(DAYS[:6], {"since": ["2012-01-04"]}, first.etag).status == 200


def test_trouble_is_seldom_and_the_same_each_time() -> None:
    drawn = [trouble(SEED, number) for number in range(1, 71)]
    assert drawn == [trouble(SEED, number) for number in range(1, 71)]
    statuses = [reply.status for reply in drawn if reply is not None]
    assert {429, 503} == set(statuses)
    assert len(statuses) < 10


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    feed = Feed(DAYS, FeedLog(tmp_path / "feed.jsonl"), grow_s=0.001, seed=4)
    yield feed
    feed.stop()


def ask(url: str, run: str) -> httpx.Response:
    return httpx.get(url, headers={"Beatline-Run": run, "Beatline-Attempt": "2"}, timeout=10)


def test_every_request_is_written_down(feed: Feed, tmp_path: Path) -> None:
    assert trouble(4, 1) is None
    assert feed.available() == 0
    url = feed.start()
    first = ask(url, "r1")
    assert len(first.json()["days"]) >= 1
    assert wait_until(lambda: feed.available() == len(DAYS), what="the feed has grown")
    ask(url.replace("/days", "/else"), "r2")
    assert wait_until(lambda: len(read_log(tmp_path / "feed.jsonl")) == 2)
    one, other = read_log(tmp_path / "feed.jsonl")
    assert (one.run, one.attempt, one.path, one.status, one.rows) == ("r1", 2, "/days", 200, len(first.json()["days"]))
    assert (other.run, other.status) == ("r2", 404)


def test_a_held_request_is_cut_off_without_an_answer(feed: Feed, tmp_path: Path) -> None:
    url = feed.start()
    feed.hold_one()
    assert len(ask(url, "r1").json()["days"]) <= PAGE_ROWS
    assert feed.held_run is None, "a first page is not in the middle"
    errors: list[Exception] = []

    def second_page() -> None:
        try:
            ask(f"{url}?after=2012-01-01", "r1")
        except httpx.TransportError as exc:
            errors.append(exc)

    waiting = threading.Thread(target=second_page)
    waiting.start()
    assert wait_until(lambda: feed.held_run) == "r1"
    feed.cut_off()
    waiting.join()
    assert len(errors) == 1
    assert wait_until(lambda: [one for one in read_log(tmp_path / "feed.jsonl") if one.status == 0])
