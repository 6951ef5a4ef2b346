"""Runs over HTTP: filters, pages that stand still while runs arrive, attempts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import httpx
import pytest

from beatline.clock import utc_now
from beatline.installation import Installation
from beatline.ledger.events import Event
from beatline.ledger.intake import Entry
from beatline.ledger.states import EventKind
from beatline.ledger.write import write
from support.ledger import accepted, event
from support.problems import said


def tell(installation: Installation, *events: Event) -> None:
    """As a recorder writes them."""
    entries = [Entry(f"{number}-0", one.to_json()) for number, one in enumerate(events)]
    assert write(installation.engine, entries, installation.keyring) == 0


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


@pytest.fixture
def history(installation: Installation) -> None:
    now = utc_now().timestamp()
    tell(
        installation,
        accepted("aaaa1111-done", at=now - 9000, task="collect.execute_task", queue="collect"),
        event(EventKind.STARTED, "aaaa1111-done", at=now - 8990, worker="w@x", fence=1, task="collect.execute_task",
              queue="collect"),
        event(EventKind.SUCCEEDED, "aaaa1111-done", at=now - 8988.5, worker="w@x", fence=1, result="'100% ok'",
              task="collect.execute_task", queue="collect"),
        accepted("bbbb2222-sick", at=now - 60, schedule="nightly", kwargs_shown="{'password': '***'}"),
        event(EventKind.STARTED, "bbbb2222-sick", at=now - 50, worker="w@x", fence=2),
        event(EventKind.FAILED, "bbbb2222-sick", at=now - 49, worker="w@x", fence=2, error="ValueError('läuft nicht')",
              traceback="Traceback (most recent call last): …"),
        accepted("weird/id ä?", at=now - 30),
    )  # fmt: skip


FILTERS: Final = {
    "": ["weird/id ä?", "bbbb2222-sick", "aaaa1111-done"],
    "state=failed": ["bbbb2222-sick"],
    "state=failed&state=succeeded": ["bbbb2222-sick", "aaaa1111-done"],
    "queue=collect": ["aaaa1111-done"],
    "task=collect.*": ["aaaa1111-done"],
    "task=collect": [],
    "schedule=nightly": ["bbbb2222-sick"],
    "since=15m": ["weird/id ä?", "bbbb2222-sick"],
    "until=15m": ["aaaa1111-done"],
    "since=3h&until=1h": ["aaaa1111-done"],
    "text=LÄUFT": ["bbbb2222-sick"],
    "text=100%25": ["aaaa1111-done"],  # a character that LIKE reads as anything
    "text=b_b": [],
    "text=%27%3B+DROP+TABLE+runs%3B--": [],
    "limit=1": ["weird/id ä?"],
}
NONSENSE: Final = {
    "state=broken": "state",
    "limit=0": "limit: must be greater than or equal to 1",
    "limit=501": "limit",
    "limit=many": "limit: must be a valid integer",
    "since=yesterday": "since 'yesterday' is no time",
    "until=99999999999w": "until",
    "cursor=abc": "cursor: this is none",
    "cursor=WzEsMl0": "cursor: this is none",
    "cursor=WyIyMDI2IiwgIlx1MDAwMCJd": "cursor: this is none",
    "cursor=" + "A" * 5000: "cursor: ",
    "text=" + "x" * 600: "text: ",
}


def test_filters(client: httpx.Client, history: None) -> None:
    assert {query: ids(client.get(f"tasks?{query}")) for query in FILTERS} == FILTERS


def test_what_makes_no_sense_names_the_parameter(client: httpx.Client) -> None:
    for query, words in NONSENSE.items():
        assert words in said(client.get(f"tasks?{query}"), 422)["detail"]


def test_pages_stand_still_while_runs_arrive(client: httpx.Client, installation: Installation) -> None:
    at = utc_now().timestamp() - 600
    expected = [f"run-{number:02}" for number in range(20)]
    # Four of a moment each: the id decides between them
    tell(installation, *(accepted(name, at=at + number // 4) for number, name in enumerate(expected)))
    seen: list[str] = []
    cursor: str | None = None
    for number in range(20):
        page = client.get("tasks", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        tell(installation, accepted(f"late-{number:02}", at=at + 300 + number))
        if cursor is None:
            break
    assert seen == expected[::-1]


def test_a_run_whose_acceptance_is_not_told_yet_is_on_one_page(
    client: httpx.Client, installation: Installation
) -> None:
    now = utc_now().timestamp()
    started = [event(EventKind.STARTED, f"early-{n}", at=now, worker="w", fence=n) for n in (1, 2, 3)]
    tell(installation, *started, accepted("known", at=now))
    first = client.get("tasks", params={"limit": 2}).json()
    second = client.get("tasks", params={"limit": 2, "cursor": first["next"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == ["early-3", "early-2", "early-1", "known"]
    assert second["next"] is None


def test_a_run_is_shown_with_its_attempts(client: httpx.Client, history: None) -> None:
    shown: dict[str, Any] = client.get("tasks/bbbb2222-sick").json()
    assert (shown["state"], shown["schedule"], shown["kwargs_shown"]) == ("failed", "nightly", "{'password': '***'}")
    assert [(one["attempt"], one["outcome"], one["worker"]) for one in shown["attempts"]] == [(1, "failed", "w@x")]
    assert shown["retried_as"] == []
    assert shown["accepted_at"].endswith("Z")
    assert client.get("tasks/bbbb").json()["id"] == "bbbb2222-sick"


def test_an_id_may_hold_any_character(client: httpx.Client, history: None) -> None:
    assert client.get("tasks/weird%2Fid%20%C3%A4%3F").json()["id"] == "weird/id ä?"


def test_an_id_that_nothing_has_is_not_found(client: httpx.Client, history: None) -> None:
    for name in ("none", "bbb", "%25", "..%2F..%2Fetc", "x" * 3000, "%F0%9F%92%A3"):
        assert "There is no run" in said(client.get(f"tasks/{name}"), 404)["detail"]


def test_a_span_of_time_is_in_utc_unless_it_says_otherwise(client: httpx.Client, installation: Installation) -> None:
    now = utc_now()
    tell(installation, accepted("one", at=(now - timedelta(minutes=30)).timestamp()))
    utc = (now - timedelta(minutes=40)).replace(tzinfo=None).isoformat()
    assert ids(client.get("tasks", params={"since": utc})) == ["one"]
    assert ids(client.get("tasks", params={"since": f"{utc}-08:00"})) == []
