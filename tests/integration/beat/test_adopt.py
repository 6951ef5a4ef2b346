"""Schedules that others wrote: beat_schedule of a project, and stock RedBeat's entries. Bad ones harm nobody else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.schedules import BaseSchedule, crontab

from beatline.clock import utc_now
from beatline.schedules import store
from beatline_beat.scheduler import BeatlineScheduler
from beatline_beat.seams import RedBeatSchedulerEntry, rrule, schedule
from support.beats import BeatView, MakeScheduler, body_of, tick_until


@pytest.fixture
def stock(scheduler: BeatlineScheduler) -> Any:
    """Makes an entry as stock RedBeat's API does."""

    def make(name: str, when: Any, **fields: Any) -> Any:
        return RedBeatSchedulerEntry(name, "test.add", schedule=when, app=scheduler.app, **fields).save()

    return make


def test_a_stock_entry_is_adopted_and_fires(view: BeatView, scheduler: BeatlineScheduler, stock: Any) -> None:
    ran = utc_now() - timedelta(seconds=3600.5)
    entry = stock("legacy", schedule(3600), args=[1], kwargs={"y": 2}, options={"queue": "heavy"}, last_run_at=ran)
    assert entry.score <= utc_now().timestamp()
    tick_until(scheduler, lambda: view.sent("heavy"))

    row = view.get("legacy")
    assert (row.owner, row.trigger["every_s"], row.queue) == ("redbeat", 3600.0, "heavy")
    [occurrence] = view.outcomes("legacy")
    assert occurrence["slot"] == ran + timedelta(hours=1)
    assert body_of(view.messages("heavy")[0])[:2] == [[1], {"y": 2}]
    assert json.loads(view.entry("legacy")["ext"])["id"] == str(row.id)
    assert view.score("legacy") == pytest.approx((ran + timedelta(hours=2)).timestamp())


def test_a_stock_entry_that_never_ran_fires_at_once(view: BeatView, scheduler: BeatlineScheduler, stock: Any) -> None:
    stock("fresh", schedule(3600))
    view.redis.hdel(view.prefix + "fresh", "meta")
    view.redis.zadd(f"{view.prefix}:schedule", {view.prefix + "fresh": 1})
    tick_until(scheduler, lambda: view.fired("fresh"))


def test_stock_types_become_triggers(view: BeatView, scheduler: BeatlineScheduler, stock: Any) -> None:
    at = datetime(2099, 1, 1, tzinfo=UTC)
    stock("cron", crontab(minute="*/10", hour="8-17", day_of_week="mon-fri"))
    stock("once", rrule(3, dtstart=at, count=1))
    stock("off", schedule(60), enabled=False)
    for name in ("cron", "once", "off"):
        view.redis.zadd(f"{view.prefix}:schedule", {view.prefix + name: 1})
    scheduler.tick()
    scheduler.tick()
    assert view.get("cron").trigger["expr"] == "*/10 8-17 * * 1,2,3,4,5"
    assert view.get("once").spec().trigger.at == at  # type: ignore[union-attr]  # it is a Date
    assert (view.get("off").pause_reason, view.score("off")) == ("enabled=False", -1)


def test_an_entry_saved_again_by_its_application_is_a_new_version(
    view: BeatView, scheduler: BeatlineScheduler, stock: Any
) -> None:
    stock("legacy", schedule(3600), last_run_at=utc_now() - timedelta(hours=2))
    tick_until(scheduler, lambda: view.sent())
    scheduler.tick()
    stock("legacy", schedule(7200), args=[5])
    view.redis.zadd(f"{view.prefix}:schedule", {view.prefix + "legacy": 1})
    tick_until(scheduler, lambda: view.get("legacy").args == [5])
    assert view.get("legacy").trigger["every_s"] == 7200
    assert len(view.sent()) == 1  # a changed trigger does not fire for the past


def test_an_operators_schedule_is_not_changed_through_redis(
    view: BeatView, scheduler: BeatlineScheduler, stock: Any
) -> None:
    view.add("ours", every="1h", args=[1])
    scheduler.tick()
    stock("ours", schedule(5), args=[666])
    view.redis.zadd(f"{view.prefix}:schedule", {view.prefix + "ours": 1})
    scheduler.tick()
    assert (view.get("ours").version, view.get("ours").owner) == (1, "operator")
    assert json.loads(view.entry("ours")["definition"])["args"] == [1]
    assert view.sent() == []


EVERY_5 = '"schedule": {"__type__": "interval", "every": 5, "relative": 0}'
BAD: dict[str, tuple[str, str]] = {  # name: (definition, what the reason says)
    "broken": ("{not json", "JSONDecodeError"),
    "listed": ("[1, 2]", "AttributeError"),
    "typeless": ('{"task": "t", "schedule": {"__type__": "lunar"}}', "type dict is not supported"),
    "keyless": ('{"task": "t", "schedule": {"__type__": "interval", "every": 5}}', "relative"),
    "minute99": ('{"task": "t", "schedule": {"__type__": "crontab", "minute": "99"}}', "99"),
    "many": ('{"task": "t", "schedule": {"__type__": "rrule", "freq": 5}}', "count=1"),
    "nobody": (f"{{{EVERY_5}}}", "task"),
    "nul": (f'{{"task": "t", "kwargs": {{"a": "\\u0000"}}, {EVERY_5}}}', "NUL"),
    "huge": (f'{{"task": "t", "args": ["{"x" * 5_000_000}"], {EVERY_5}}}', "bytes as JSON"),
    "col:on": (f'{{"task": "t", {EVERY_5}}}', "is not allowed"),
    "new\nline": (f'{{"task": "t", {EVERY_5}}}', "is not allowed"),
}


def test_bad_entries_are_quarantined_with_their_reasons_and_the_rest_run(
    view: BeatView, scheduler: BeatlineScheduler
) -> None:
    view.add("good", every="200ms")
    for name, (definition, _) in BAD.items():
        view.redis.hset(view.prefix + name, "definition", definition)
        view.redis.zadd(f"{view.prefix}:schedule", {view.prefix + name: 1})
    tick_until(scheduler, lambda: len(view.fired("good")) >= 2)

    for name, (_, said) in BAD.items():
        row = view.get(name)
        assert said in (row.quarantined or ""), name
        assert (row.owner, view.score(name), view.fired(name)) == ("redbeat", -1, []), name


def test_a_mended_entry_is_taken_up(view: BeatView, scheduler: BeatlineScheduler, stock: Any) -> None:
    view.redis.hset(view.prefix + "job", "definition", "{")
    view.redis.zadd(f"{view.prefix}:schedule", {view.prefix + "job": 1})
    scheduler.tick()
    scheduler.tick()
    assert view.get("job").quarantined
    stock("job", schedule(0.2))
    tick_until(scheduler, lambda: view.fired("job"))
    assert view.get("job").quarantined is None


def test_members_without_an_entry_do_no_harm(view: BeatView, scheduler: BeatlineScheduler) -> None:
    view.add("good", every="200ms")
    scheduler.tick()
    names = ["no-such-entry", "a string", "text", ":lock", "\udcff\udcfe", "nul\x00"]
    keys = [(view.prefix + name).encode("utf-8", "surrogateescape") for name in names]
    view.redis.set(keys[1], "no hash")
    view.redis.set(keys[2], "no hash")
    view.redis.zadd(f"{view.prefix}:schedule", dict.fromkeys(keys, 1))
    tick_until(scheduler, lambda: len(view.fired("good")) >= 2)

    assert view.leader() == scheduler.leader.token  # the key of the lock is not taken for an entry
    assert {view.redis.zscore(f"{view.prefix}:schedule", key) for key in keys} == {None, -1}


def test_an_entry_of_a_schedule_that_is_gone_is_taken_away(view: BeatView, scheduler: BeatlineScheduler) -> None:
    view.add("job", every="1h")
    scheduler.tick()
    orphan = view.entry("job")
    view.redis.hset(view.prefix + "orphan", mapping=orphan)
    view.redis.zadd(f"{view.prefix}:schedule", {view.prefix + "orphan": 1})
    scheduler.tick()
    assert view.names() == ["job"]


def test_a_row_that_no_longer_makes_sense_is_quarantined_and_released_once_it_does(
    view: BeatView, scheduler: BeatlineScheduler
) -> None:
    view.add("good", every="200ms")
    bad: dict[str, dict[str, Any]] = {
        "zone": {"trigger": {"type": "cron", "expr": "* * * * *", "tz": "Mars/Base"}},
        "trigger": {"trigger": {"type": "lunar"}},
        "queue": {"queue": "nowhere"},
    }
    for name, change in bad.items():
        view.add(name, every="200ms")
        view.overwrite(name, **change)
    tick_until(scheduler, lambda: len(view.fired("good")) >= 3)

    reasons = {name: view.get(name).quarantined or "" for name in ("zone", "trigger", "queue")}
    assert "no time zone 'Mars/Base'" in reasons["zone"]
    assert "cron, interval or date" in reasons["trigger"]
    assert "no queue 'nowhere'" in reasons["queue"]
    assert [view.fired(name) for name in reasons] == [[], [], []]

    view.overwrite("queue", queue=None)
    view.change(store.resume, "queue", who="ann")
    tick_until(scheduler, lambda: view.fired("queue"))


class Lunar(BaseSchedule):
    """A schedule of a kind that nobody knows."""


STATICS: dict[str, Any] = {
    "every-two": {"task": "test.add", "schedule": 0.2, "args": (1, 2), "options": {"queue": "heavy", "expires": 5}},
    "add every 10 (s)": {"task": "test.add", "schedule": timedelta(seconds=10)},
    "nightly": {"task": "test.add", "schedule": crontab(minute=30, hour=2)},
    "firsts": {"task": "test.add", "schedule": crontab(minute=0, hour=0, day_of_month="1-7", day_of_week=1)},
    "lunar": {"task": "test.add", "schedule": Lunar()},
    "lazy": {"task": "test.add", "schedule": 10, "args": (object(),)},
    "no": 5,
}


def test_the_projects_beat_schedule_is_taken_over(view: BeatView, scheduler: BeatlineScheduler) -> None:
    scheduler.app.conf.beat_schedule = STATICS
    tick_until(scheduler, lambda: len(view.sent("heavy")) >= 2)

    rows = {row.name: row for row in view.change(store.list_schedules)}
    assert {row.owner for row in rows.values()} == {"code"}
    assert rows["nightly"].trigger == {"type": "cron", "expr": "30 2 * * *", "tz": "UTC"}
    [slug] = [name for name in rows if name.startswith("add-every-10-s")]
    assert rows[slug].trigger["every_s"] == 10
    broken = {name: row.quarantined for name, row in rows.items() if row.quarantined}
    assert set(broken) == {"firsts", "lunar", "lazy", "no"}
    assert "MON#1" in (broken["firsts"] or "")
    assert "Lunar is not supported" in (broken["lunar"] or "")
    assert "args[0] is a object" in (broken["lazy"] or "")


def test_what_an_operator_did_to_a_static_schedule_survives_a_restart(
    view: BeatView, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_scheduler()
    first.app.conf.beat_schedule = {
        name: {"task": "test.add", "schedule": 3600} for name in ("paused", "removed", "changed", "left", "same")
    }
    first.tick()
    view.change(store.pause, "paused", who="ann", reason="holidays")
    view.change(store.remove, "removed", who="ann")
    versions = {name: view.get(name).version for name in ("paused", "same")}
    first.close()

    second = make_scheduler()
    second.app.conf.beat_schedule = {
        name: {"task": "test.add", "schedule": 3600, "args": (1,) if name == "changed" else ()}
        for name in ("paused", "removed", "changed", "same")
    }
    second.tick()
    assert {name: view.get(name).version for name in versions} == versions
    assert view.get("paused").pause_reason == "holidays"
    assert view.get("changed").args == [1]
    assert sorted(view.names()) == ["changed", "left", "paused", "same"]
    assert "left beat_schedule and still runs" in caplog.text
    assert "was removed by an operator" in caplog.text
