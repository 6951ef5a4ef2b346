"""A run whose row was committed is published, whether or not who committed it lives to do so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.clock import monotonic_s, utc_now, utc_today
from beatline.engine.claim import Claims, Lease
from beatline.engine.publish import publish_stored
from beatline.ledger import relay as relay_module
from beatline.ledger.epochs import Epochs, look
from beatline.ledger.relay import CHANNEL, GRACE_S, PAGE, Relay, Relaying
from beatline.ledger.store import insert_runs
from beatline.secrets import Keyring, new_key
from support.ledger import message, new_run, run_row, waiting
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation

Insert = Callable[..., None]


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """The relay's own clock, which a test moves."""
    clock = _Clock()
    monkeypatch.setattr(relay_module, "monotonic_s", clock)
    return clock


@pytest.fixture
def insert(installation: Installation) -> Insert:
    def insert(*run_ids: str, age_s: float = 0.0, keyring: Keyring | None = None) -> None:
        at = utc_now() - timedelta(seconds=age_s)
        with installation.engine.begin() as conn:
            insert_runs(conn, [new_run(r, accepted_at=at) for r in run_ids], keyring or installation.keyring)

    return insert


def begin_epoch(installation: Installation, *, settled: bool = True) -> None:
    redis, keys = installation.redis, installation.keys
    Epochs(installation.engine, redis, keys).keep(look(redis, keys))
    if settled:
        redis.set(keys.settled, look(redis, keys).data_set)


def queued(installation: Installation) -> list[str]:
    return sorted(one.run_id for one in waiting(installation))


def state(installation: Installation, run_id: str) -> str:
    with installation.engine.connect() as conn:
        return str(run_row(conn, run_id)["state"])


def test_a_run_is_published_once_its_sender_had_its_time(
    installation: Installation, insert: Insert, clock: _Clock
) -> None:
    begin_epoch(installation)
    relay = Relay(installation, installation.redis)
    insert("r1", "r2", age_s=3600.0)  # a transaction may have lasted so long
    assert relay.round() == pytest.approx(GRACE_S)
    assert queued(installation) == []
    clock.now_s += GRACE_S
    relay.round()
    assert queued(installation) == ["r1", "r2"]
    assert state(installation, "r1") == "queued"
    clock.now_s += 60.0
    relay.round()
    Relay(installation, installation.redis).round()
    assert queued(installation) == ["r1", "r2"], "once"


def test_what_redis_knows_already_is_left_alone_however_late_its_event_is(
    installation: Installation, insert: Insert, clock: _Clock
) -> None:
    begin_epoch(installation)
    insert("waits", "claimed")
    publish_stored(installation, [message("waits"), message("claimed")])
    claims = Claims(installation.redis, installation.keys, 20.0)
    assert isinstance(claims.claim("claimed", 1, "w@x", utc_today().isoformat(), queue="default"), Lease)
    relay = Relay(installation, installation.redis)
    relay.round()
    clock.now_s += 3600.0
    relay.round()
    assert state(installation, "waits") == "accepted", "no recorder has drained its event"
    assert queued(installation) == ["claimed", "waits"], "as its sender put them there"


def test_a_run_that_another_relay_holds_is_passed_over(
    installation: Installation, insert: Insert, clock: _Clock
) -> None:
    begin_epoch(installation)
    insert("r1", "r2")
    relay = Relay(installation, installation.redis)
    relay.round()
    clock.now_s += GRACE_S
    with installation.engine.begin() as other:
        other.execute(text("SELECT 1 FROM beatline.runs WHERE id = 'r1' FOR UPDATE"))
        relay.round()
        assert queued(installation) == ["r2"]
    relay.round()
    assert queued(installation) == ["r1", "r2"]


def test_a_message_that_cannot_be_opened_holds_up_nobody(
    installation: Installation, insert: Insert, clock: _Clock, caplog: pytest.LogCaptureFixture
) -> None:
    begin_epoch(installation)
    foreign = Keyring.parse(new_key(), source="another installation")
    insert(*(f"sealed-{n}" for n in range(PAGE)), age_s=100.0, keyring=foreign)
    insert("r1")
    relay = Relay(installation, installation.redis)
    for _ in range(3):
        relay.round()
        clock.now_s += GRACE_S
    assert queued(installation) == ["r1"]
    assert state(installation, "sealed-0") == "accepted"
    assert caplog.text.count("message_unreadable") == PAGE  # once each


def test_after_a_loss_of_data_only_what_came_later_is_published_at_once(
    installation: Installation, insert: Insert, clock: _Clock
) -> None:
    begin_epoch(installation)
    relay = Relay(installation, installation.redis)
    relay.round()
    insert("before")  # it may be in the hands of a worker, whose claim Redis has forgotten
    redis, keys = installation.redis, installation.keys
    redis.delete(keys.epoch, keys.since, keys.settled)
    begin_epoch(installation, settled=False)
    relay.round()
    insert("after")
    relay.round()
    clock.now_s += GRACE_S
    relay.round()
    assert queued(installation) == ["after"]
    Relay(installation, installation.redis).round()  # one that starts now cannot tell
    assert queued(installation) == ["after"]
    redis.set(keys.settled, look(redis, keys).data_set)
    relay.round()
    assert queued(installation) == ["after", "before"]


def test_a_notice_wakes_the_relay(installation: Installation, insert: Insert, monkeypatch: pytest.MonkeyPatch) -> None:
    """With looks a minute apart, only the notice can make it so quick."""
    monkeypatch.setattr(relay_module, "LOOK_S", 60.0)
    begin_epoch(installation)
    stop = threading.Event()
    thread = threading.Thread(target=Relaying(installation, installation.redis, stop).run)
    thread.start()
    try:
        wait_until(lambda: _listening(installation), 10, what="the relay listens")
        committed_s = monotonic_s()
        with installation.engine.begin() as conn:
            insert_runs(conn, [new_run("r1")], installation.keyring)
            conn.execute(text("SELECT pg_notify(:channel, 'beatline')"), {"channel": CHANNEL})
        wait_until(lambda: queued(installation) == ["r1"], 10, what="it is published")
        assert monotonic_s() - committed_s < 2.0
    finally:
        stop.set()
        thread.join()


def _listening(installation: Installation) -> Any:
    with installation.engine.connect() as conn:
        return conn.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")
        ).scalar()
