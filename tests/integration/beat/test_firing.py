"""A due slot becomes an occurrence, a run and a message, in this order, once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from beatline.clock import utc_now
from beatline.installation import Installation
from beatline.ledger.database import sql
from beatline.ledger.model import schedules
from beatline.ledger.store import NewRun, insert_runs
from beatline.schedules import store
from beatline.schedules.model import read_spec
from beatline_beat.scheduler import BeatlineScheduler
from beatline_beat.seams import RedBeatSchedulerEntry
from support.beats import BeatView, body_of, tick_until


def test_cron_interval_and_date_fire_each_slot_once(view: BeatView, scheduler: BeatlineScheduler) -> None:
    at = (utc_now() + timedelta(seconds=1)).replace(tzinfo=None)
    view.add("often", every="250ms", args=[1, 2])
    view.add("secondly", cron="* * * * * *", tz="Asia/Shanghai", kwargs={"x": 1, "y": 2})
    view.add("once", at=at)
    tick_until(scheduler, lambda: len(view.fired("secondly")) == 3)

    assert view.kinds("once") == [("fired", 1)]
    assert view.outcomes("once")[0]["slot"] == at.replace(tzinfo=UTC)
    assert view.assert_accounted("often") >= 8
    assert view.assert_accounted("secondly") == 3
    fired = [run_id for name in ("often", "secondly", "once") for run_id in view.fired(name)]
    assert sorted(view.sent()) == sorted(fired) == sorted(run["id"] for run in view.runs())
    assert "once" not in view.names()  # a date that has passed needs no entry


def test_the_run_stands_with_its_message_before_it_is_queued(
    view: BeatView, scheduler: BeatlineScheduler, installation: Installation
) -> None:
    made = view.add("job", every="1h", args=[1, 2], queue="heavy", priority=7)
    since = view.neglect("job", hours=1)
    tick_until(scheduler, lambda: view.fired("job"))

    slot = since + timedelta(hours=1)
    [run] = view.runs()
    [message] = view.messages("heavy")
    head, day = message["headers"], slot.date()
    assert (run["state"], run["queue"], run["task"], run["priority"]) == ("accepted", "heavy", "test.add", 7)
    assert (run["schedule"], run["slot"], run["day"], run["attempt"]) == ("job", slot, day, 1)
    assert (run["root_id"], run["args_shown"], run["kwargs_shown"]) == (run["id"], "[1, 2]", "{}")
    assert view.days_of_runs() == {run["id"]: day}
    assert (head["id"], head["bl_schedule"], head["bl_day"]) == (run["id"], "job", day.isoformat())
    assert (head["bl_stored"], head["bl_attempt"], datetime.fromisoformat(head["bl_slot"])) == (1, 1, slot)
    assert body_of(message)[:2] == [[1, 2], {}]
    plain = installation.keyring.decrypt(bytes(run["message"]), bound_to=f"run:{run['id']}")
    assert b'"bl_schedule": "job"' in plain
    [row] = view.outcomes("job")
    assert (row["day"], row["run_id"], row["schedule_id"]) == (day, run["id"], made.id)
    assert row["decided_by"] == scheduler.leader.name
    assert 0 <= row["lateness_s"] < 10


def test_a_run_of_a_page_looks_like_one_that_the_ledger_inserts(
    view: BeatView, scheduler: BeatlineScheduler, installation: Installation
) -> None:
    view.add("job", every="1h")
    view.neglect("job", hours=1)
    tick_until(scheduler, lambda: view.fired("job"))
    now = utc_now()
    other = NewRun(run_id="other", day=now.date(), task="t", queue="q", message="{}", accepted_at=now)
    with installation.engine.begin() as conn:
        insert_runs(conn, [other], installation.keyring)

    ours, theirs = sorted(view.runs(), key=lambda run: str(run["id"] == "other"))
    unset = {name for name, value in theirs.items() if value is None}
    assert {name for name, value in ours.items() if value is None} == unset - {
        "schedule", "slot", "root_id", "args_shown", "kwargs_shown", "priority",
    }  # fmt: skip
    assert [ours[name] for name in ("state", "progress", "attempt", "message_attempt")] == [
        theirs[name] for name in ("state", "progress", "attempt", "message_attempt")
    ]


def test_after_downtime_the_latest_slot_fires_and_older_ones_are_one_row(
    view: BeatView, scheduler: BeatlineScheduler
) -> None:
    view.add("minutely", every="60s")
    since = view.neglect("minutely", hours=2, seconds=1)
    tick_until(scheduler, lambda: view.fired("minutely"))
    old, fired = view.outcomes("minutely")
    assert (old["outcome"], old["slots"], fired["outcome"]) == ("coalesced", 119, "fired")
    assert (old["slot"], old["last_slot"]) == (since + timedelta(minutes=1), since + timedelta(minutes=119))
    assert fired["slot"] == since + timedelta(minutes=120)
    assert len(view.sent()) == 1


def test_a_pause_holds_back_and_resuming_does_not_burst(view: BeatView, scheduler: BeatlineScheduler) -> None:
    view.add("often", every="200ms")
    tick_until(scheduler, lambda: view.fired("often"))
    view.change(store.pause, "often", who="ann", reason="enough")
    scheduler.tick()
    assert view.score("often") == -1
    held = len(view.sent())
    until = time.monotonic() + 0.7
    tick_until(scheduler, lambda: time.monotonic() > until)
    assert len(view.sent()) == held

    view.change(store.resume, "often", who="ann")
    tick_until(scheduler, lambda: len(view.sent()) == held + 1)
    later = [row for row in view.outcomes("often") if row["slot"] > view.get("often").updated_at]
    assert [(row["outcome"], row["slots"]) for row in later] == [("fired", 1)]


def test_a_change_is_in_force_at_the_next_tick(view: BeatView, scheduler: BeatlineScheduler) -> None:
    view.add("job", every="1h", args=[1, 1])
    scheduler.tick()
    assert view.names() == ["job"]
    spec = read_spec("job", {"task": "test.add", "every": "300ms", "args": [2, 2]})
    view.change(store.put, spec, who="ann", owner="operator")
    tick_until(scheduler, lambda: view.sent())
    assert body_of(view.messages()[0])[0] == [2, 2]
    view.change(store.remove, "job", who="ann")
    scheduler.tick()
    assert view.names() == []
    assert view.entry("job") == {}


def test_a_schedule_that_is_being_changed_is_left_alone_and_fires_afterwards(
    view: BeatView, scheduler: BeatlineScheduler, installation: Installation
) -> None:
    for name in ("locked", "free"):
        view.add(name, every="1h")
        view.neglect(name, hours=1)
    with installation.engine.begin() as conn:
        conn.execute(update(schedules).where(schedules.c.name == "locked").values(updated_at=utc_now()))
        tick_until(scheduler, lambda: view.fired("free"))
        assert scheduler.tick() <= 0.05
        assert view.fired("locked") == []
    tick_until(scheduler, lambda: view.fired("locked"))
    assert view.kinds("locked") == [("fired", 1)]


def test_stock_redbeat_reads_our_entries_and_computes_the_same_next_time(
    view: BeatView, scheduler: BeatlineScheduler
) -> None:
    view.add("interval", every="1h", args=[1], kwargs={"a": "b"}, queue="heavy", priority=3)
    view.add("cron", cron="30 4 * * *")
    view.add("zoned", cron="30 4 * * *", tz="Asia/Shanghai")
    view.add("seconds", cron="15 30 4 L * *")
    view.add("date", at="2099-01-01T00:00")
    scheduler.tick()
    for name in ("interval", "cron", "zoned", "seconds", "date"):
        stock = RedBeatSchedulerEntry.from_key(view.prefix + name, app=scheduler.app)
        # Not `due_at`, which adds what remains from now on to the time of the last run.
        remaining = stock.schedule.remaining_estimate(stock.last_run_at)
        assert abs((utc_now() + remaining).timestamp() - (view.score(name) or 0)) < 1, name
        assert (stock.name, stock.task, stock.enabled) == (name, "test.add", True)
    stock = RedBeatSchedulerEntry.from_key(view.prefix + "interval", app=scheduler.app)
    assert (stock.args, stock.kwargs, stock.options) == ([1], {"a": "b"}, {"queue": "heavy", "priority": 3})


def test_a_page_holds_many_entries_and_the_rest_follow_at_once(view: BeatView, scheduler: BeatlineScheduler) -> None:
    view.add("s0", every="1h")
    view.neglect("s0", minutes=61)
    with view.installation.engine.begin() as conn:
        conn.execute(sql(conn, _COPIES), {"copies": 1099})
    turns = 0
    while scheduler.tick() == 0.0:
        turns += 1
    with view.installation.engine.connect() as conn:
        fired = conn.execute(sql(conn, "SELECT count(*), count(DISTINCT run_id) FROM {schema}.occurrences")).one()
    assert tuple(fired) == (1100, 1100)
    assert len(set(view.sent())) == len(view.sent()) == 1100
    assert turns == 2


_COPIES = """
    INSERT INTO {schema}.schedules (id, name, task, args, kwargs, trigger, decided_until, owner, version, revision,
        created_at, updated_at)
    SELECT gen_random_uuid(), 's' || n, task, args, kwargs, trigger, decided_until, owner, version, revision + n,
        created_at, updated_at
    FROM {schema}.schedules, generate_series(1, :copies) n WHERE name = 's0'
"""
