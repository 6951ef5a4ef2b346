"""`beatline schedules …`, as a person types it and as a program reads it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from beatline.clock import utc_now
from beatline.installation import Installation
from beatline.schedules import store
from support.beats import BeatView
from support.serving import MakeSettings

Cli = Callable[..., Any]
NIGHTLY = ("nightly", "test.add", "--cron", "0 2 * * *", "--tz", "Asia/Shanghai", "--args", "[1, 2]")


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks",))


@pytest.fixture
def view(installation: Installation) -> BeatView:
    return BeatView(installation)


def test_what_is_added_is_shown_with_its_next_times(cli: Cli) -> None:
    added = cli("schedules", "add", *NIGHTLY)
    assert (added.code, "02:00:00 +0800" in added.out) == (0, True)
    [listed] = cli("schedules", "list", "--json").json
    assert (listed["name"], listed["task"], listed["args"], listed["state"]) == (
        "nightly",
        "test.add",
        [1, 2],
        "active",
    )
    assert (listed["when"], listed["zone"], listed["owner"]) == ("at 02:00 every day", "Asia/Shanghai", "operator")
    ahead = cli("schedules", "next", "nightly", "-n", "4", "--json").json
    assert len(ahead) == 4
    assert ahead[0]["utc"] == listed["next"]
    for slot in ahead:
        assert datetime.fromisoformat(slot["local"]) == datetime.fromisoformat(slot["utc"])
        assert slot["local"].endswith("T02:00:00+08:00")
    assert "at 02:00 every day" in cli("schedules", "list").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("job", "test.ad", "--every", "5m"), "did you mean test.add"),
        (("job", "test.add"), "give one of cron, every and at"),
        (("job", "test.add", "--every", "5m", "--at", "2099-01-01"), "not every and at"),
        (("job", "test.add", "--cron", "0 99 * * *"), "bad hour '99'"),
        (("job", "test.add", "--cron", "0 0 31 2 *"), "no month 2 has a day 31"),
        (("job", "test.add", "--every", "5m", "--tz", "shanghai"), "did you mean Asia/Shanghai?"),
        (("job", "test.anything", "--at", "2020-01-01T00:00"), "has passed; it would never run"),
        (
            ("job", "test.add", "--every", "5m", "--args", "[1]"),
            "Task 'test.add' was not accepted: argument 'y' is missing",
        ),
        (("job", "test.add", "--at", "2027-02-30T00:00"), "is not a date"),
        (("job", "test.add", "--every", "5m", "--args", "[weather]"), "--args '[weather]' is not JSON"),
        (("job", "test.add", "--every", "5m", "--kwargs", "[1]"), "kwargs is a JSON object"),
        (("job", "test.add", "--every", "5m", "--queue", "nowhere"), "no queue 'nowhere'"),
        (("job", "test.add", "--every", "5m", "--priority", "10"), "priority: "),
        (("a:b", "test.add", "--every", "5m"), "The schedule name 'a:b' is not allowed"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    cli: Cli, view: BeatView, arguments: tuple[str, ...], said: str
) -> None:
    ran = cli("schedules", "add", *arguments)
    assert ran.code == 1
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert view.change(store.list_schedules) == []


def test_a_task_that_only_workers_know_needs_force(cli: Cli) -> None:
    assert cli("schedules", "add", "job", "elsewhere.work", "--every", "5m").code == 1
    assert cli("schedules", "add", "job", "elsewhere.work", "--every", "5m", "--force").code == 0


def test_a_source_that_does_not_exist_yet_is_named(cli: Cli) -> None:
    ran = cli("schedules", "add", "job", "collect.execute_task", "--every", "5m", "--args", '["weather"]')
    assert ran.code == 0
    assert "There is no source 'weather' yet" in ran.err


def test_a_pause_is_shown_with_who_and_why(cli: Cli) -> None:
    cli("schedules", "add", *NIGHTLY)
    assert cli("schedules", "pause", "nightly", "--reason", "holidays").code == 0
    [paused] = cli("schedules", "list", "--json").json
    assert (paused["state"], paused["reason"], paused["next"]) == ("paused", "holidays", None)
    assert f"paused by {paused['paused_by']}: holidays" in cli("schedules", "list").out
    assert "does not run" in cli("schedules", "next", "nightly").err
    again = cli("schedules", "pause", "nightly")
    assert (again.code, "paused already" in again.err) == (1, True)
    assert cli("schedules", "resume", "nightly", "--json").json["state"] == "active"


def test_run_now_accepts_and_queues_a_run_beside_the_slots(cli: Cli, view: BeatView) -> None:
    cli("schedules", "add", *NIGHTLY)
    cli("schedules", "pause", "nightly")
    before = view.get("nightly")
    run_id = cli("schedules", "run-now", "nightly", "--json").json["run_id"]
    [run] = view.runs()
    assert (run["id"], run["state"], run["schedule"], run["slot"]) == (run_id, "accepted", "nightly", None)
    assert view.sent() == [run_id]
    assert view.messages()[0]["headers"]["bl_stored"] == 1
    assert view.get("nightly") == before
    assert view.outcomes("nightly") == []


def test_show_tells_what_became_of_the_last_times(cli: Cli, view: BeatView) -> None:
    made = view.add("job", every="1h", kwargs={"api_key": "hunter2"})
    view.neglect("job", hours=5, minutes=1)
    view.change(store.pause, "job", who="ann", reason="slow")
    shown = cli("schedules", "show", str(made.id), "--json").json
    [past] = shown["occurrences"]
    assert (past["outcome"], past["slots"], past["reason"]) == ("skipped", 5, "the schedule was paused")
    assert shown["coming"] == []
    assert shown["kwargs"] == {"api_key": "***"}
    people = cli("schedules", "show", "job").out
    assert "the schedule was paused" in people
    assert "hunter2" not in people


def test_a_quarantined_schedule_is_listed_with_its_reason(cli: Cli, view: BeatView) -> None:
    view.change(store.keep_broken, "a:b\n", "its name is not allowed", who="beat", owner="redbeat")
    listed = cli("schedules", "list")
    assert "quarantined: its name is not allowed" in listed.out
    assert cli("schedules", "show", "a:b\n", "--json").json["state"] == "quarantined"
    assert cli("schedules", "remove", "a:b\n", "--yes").code == 0
    assert cli("schedules", "list", "--json").json == []


def test_a_date_that_has_fired_is_finished(cli: Cli, view: BeatView) -> None:
    view.add("once", at="2099-01-01T00:00")
    past = utc_now() - timedelta(hours=1)
    trigger = {"type": "date", "at": past.isoformat(), "tz": "UTC"}
    view.overwrite("once", trigger=trigger, decided_until=past)
    assert cli("schedules", "list", "--json").json[0]["state"] == "finished"
    assert "It will not run again" in cli("schedules", "next", "once").err


def test_an_unknown_name_is_answered_with_a_close_one(cli: Cli) -> None:
    cli("schedules", "add", *NIGHTLY)
    for command in ("show", "next", "pause", "resume", "run-now", "remove"):
        ran = cli("schedules", command, "nightl")
        assert (ran.code, ran.err) == (1, "There is no schedule 'nightl'. Did you mean nightly?\n")
