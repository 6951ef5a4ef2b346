"""One Beat leads: a lost lock steps down, an older leader writes nothing, and outages are waited out."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from beatline.app import create_app
from beatline.errors import AttachError
from beatline.installation import Installation
from beatline.ledger.database import upgrade
from beatline_beat.leader import State
from beatline_beat.scheduler import BeatlineScheduler
from support.beats import BeatView, MakeScheduler, tick_until
from support.servers import Server
from support.serving import MakeSettings
from support.waiting import wait_until


def test_the_first_leads_and_the_second_follows(view: BeatView, make_scheduler: MakeScheduler) -> None:
    one, two = make_scheduler(), make_scheduler()
    for scheduler in (one, two, one, two):
        scheduler.tick()
    assert (one.leader.state, two.leader.state) == (State.LEADER, State.FOLLOWER)
    assert view.leader() == one.leader.token
    assert 0 < view.redis.pttl(one.lock_key) <= 10_000


def test_a_follower_fires_nothing(view: BeatView, make_scheduler: MakeScheduler) -> None:
    one, two = make_scheduler(), make_scheduler()
    one.tick()
    view.add("job", every="1h")
    view.neglect("job", hours=1)
    assert two.tick() == two.max_interval
    assert view.names() == []
    tick_until(one, lambda: view.fired("job"))


def test_a_clean_stop_hands_over_at_once(view: BeatView, make_scheduler: MakeScheduler) -> None:
    one, two = make_scheduler(), make_scheduler()
    one.tick()
    two.tick()
    one.close()
    one.close()  # as celery's service does
    assert view.leader() is None
    two.tick()
    assert two.leader.state is State.LEADER
    assert two.leader.scribe.number == one.leader.scribe.number + 1


def test_closing_a_follower_leaves_the_leaders_lock(view: BeatView, make_scheduler: MakeScheduler) -> None:
    one, two = make_scheduler(), make_scheduler()
    one.tick()
    two.tick()
    two.close()
    assert view.leader() == one.leader.token


def test_a_leader_that_lost_its_lock_steps_down_and_writes_nothing(
    view: BeatView, make_scheduler: MakeScheduler
) -> None:
    # Given a leader that is frozen between reading a page and writing it, and another that took over meanwhile
    one, two = make_scheduler(), make_scheduler()
    view.add("job", every="1h", args=[1, 1])
    one.tick()
    view.redis.delete(one.lock_key)
    two.tick()
    assert two.leader.state is State.LEADER
    view.neglect("job", hours=1)

    # When the old one goes on with what it still believes to hold
    view.redis.zadd(f"{view.prefix}:schedule", {f"{view.prefix}job": 1})
    assert one.projection.pull() is False
    one.firing.turn(1.0)

    # Then it has written neither rows nor messages nor entries, and steps down
    assert view.runs() == view.messages() == []
    assert view.entry("job")["ext"].count('"version":1')
    assert one.leader.state is State.FOLLOWER
    one.tick()
    assert view.leader() == two.leader.token
    tick_until(two, lambda: view.fired("job"))
    assert view.kinds("job") == [("fired", 1)]


def test_an_answer_that_got_lost_does_not_lock_a_beat_out_of_its_own_lock(
    view: BeatView, scheduler: BeatlineScheduler
) -> None:
    view.redis.set(scheduler.lock_key, scheduler.leader.token, px=60_000)
    scheduler.tick()
    assert scheduler.leader.state is State.LEADER


def test_entries_are_rebuilt_when_redis_has_lost_everything(view: BeatView, scheduler: BeatlineScheduler) -> None:
    view.add("job", every="1h")
    view.add("paused", every="1h")
    view.add("once", at="2099-01-01T00:00")
    scheduler.tick()
    before = {name: (view.entry(name), view.score(name)) for name in view.names()}
    view.redis.delete(*view.redis.keys(f"{view.prefix}*"))

    scheduler.tick()
    assert {name: (view.entry(name), view.score(name)) for name in view.names()} == before
    assert scheduler.leader.scribe.number == 2


def test_redis_that_is_away_is_waited_for(
    make_settings: MakeSettings, own_redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    installation = Installation(make_settings(redis_url=own_redis.url, result_url=own_redis.url))
    view, scheduler = BeatView(installation), BeatlineScheduler(create_app(installation.settings))
    view.add("often", every="200ms")
    tick_until(scheduler, lambda: view.fired("often"))
    own_redis.stop()
    caplog.set_level(logging.INFO)

    assert [scheduler.tick() for _ in range(3)] == [scheduler.max_interval] * 3
    said = [record.message for record in caplog.records if "beat: waiting" in record.message]
    assert len(said) == 1
    assert "Redis at" in said[0]

    own_redis.start()
    seen = len(view.fired("often"))
    tick_until(scheduler, lambda: len(view.fired("often")) > seen + 1)
    assert any("beat: going on" in record.message for record in caplog.records)
    view.assert_accounted("often")
    scheduler.close()


def test_postgresql_that_is_away_is_waited_for(
    make_settings: MakeSettings, own_postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(database_url=own_postgres.url)
    upgrade(settings)
    installation = Installation(settings)
    view, scheduler = BeatView(installation), BeatlineScheduler(create_app(settings))
    view.add("often", every="200ms")
    tick_until(scheduler, lambda: view.fired("often"))
    own_postgres.stop()
    caplog.set_level(logging.INFO)

    assert [scheduler.tick() for _ in range(3)] == [scheduler.max_interval] * 3
    [said] = [record.message for record in caplog.records if "beat: waiting" in record.message]
    assert "PostgreSQL at" in said
    assert "does not answer" in said

    own_postgres.start()
    seen = len(view.fired("often"))
    tick_until(scheduler, lambda: len(view.fired("often")) > seen + 1)
    view.assert_accounted("often")
    scheduler.close()


def test_without_postgresql_a_beat_does_not_hold_the_lock(
    make_settings: MakeSettings, view: BeatView, make_scheduler: MakeScheduler
) -> None:
    settings = make_settings(database_url="postgresql://nobody@127.0.0.1:1/none")
    blind = BeatlineScheduler(create_app(settings))
    assert blind.tick() == blind.max_interval
    assert view.leader() is None
    sighted = make_scheduler()
    sighted.tick()
    assert sighted.leader.state is State.LEADER


def test_tables_of_another_version_are_named_and_waited_for(
    make_settings: MakeSettings, empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(database_url=empty_database)
    scheduler = BeatlineScheduler(create_app(settings))
    assert scheduler.tick() == scheduler.max_interval
    assert "beatline db upgrade" in caplog.text
    upgrade(settings)
    wait_until(lambda: scheduler.tick() >= 0 and scheduler.leader.state is State.LEADER)
    scheduler.close()


def test_a_sleep_never_outlasts_the_lock(make_settings: MakeSettings) -> None:
    scheduler = BeatlineScheduler(create_app(make_settings(beat_lock_s=5)), max_interval=300)
    assert scheduler.max_interval == 1.0


def test_an_app_that_is_not_attached_is_refused() -> None:
    from celery import Celery

    foreign: Any = Celery("foreign", set_as_current=False)
    with pytest.raises(AttachError, match=r"beatline\.attach"):
        BeatlineScheduler(foreign)
