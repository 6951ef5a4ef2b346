"""A keeper on a real Redis that loses data: every end that PostgreSQL may not have is told to it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.engine import lease as lease_module
from beatline.engine.claim import Claims, Dropped, Lease
from beatline.engine.held import End
from beatline.engine.lease import LeaseKeeper
from beatline.installation import Installation
from beatline.ledger.epochs import Epochs, look
from beatline.ledger.events import FIELD, Event
from beatline.ledger.states import EventKind
from beatline.ledger.stream import EventStream
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.servers import Server
    from support.serving import MakeSettings

DAY = "2026-11-22"


@pytest.fixture
def settings(make_settings: MakeSettings, own_redis: Server) -> object:
    return make_settings(redis_url=own_redis.url, result_url=own_redis.url, lease_s=0.9, lease_renew_s=0.3)


@pytest.fixture
def keeper(installation: Installation) -> Iterator[LeaseKeeper]:
    Epochs(installation.engine, installation.redis, installation.keys).keep(look(installation.redis, installation.keys))
    keeper = LeaseKeeper(installation.settings)
    keeper.start()
    wait_until(lambda: keeper.kept.seen)
    yield keeper
    keeper.stop()


def claim(keeper: LeaseKeeper, run_id: str, attempt: int = 1) -> Lease:
    def claimed() -> Lease | None:
        try:
            lease = keeper.claim(run_id, attempt, "w", DAY, 0, f"{run_id}-{attempt}")
        except RedisError:  # tried again, as the strategy does
            return None
        assert isinstance(lease, Lease)
        return lease

    lease = wait_until(claimed)
    assert lease is not None
    return lease


def finish(keeper: LeaseKeeper, lease: Lease, kind: EventKind = EventKind.SUCCEEDED) -> None:
    said = Event(kind=kind, run_id=lease.run_id, attempt=lease.attempt, day=DAY, at=1.0, task="t", queue="q",
                 fence=lease.fence)  # fmt: skip
    assert keeper.finish(End(lease, "closed" if kind is EventKind.RETRIED else "ended", said))


def told(installation: Installation) -> list[str]:
    """What stands in the stream, in order."""
    events = [json.loads(entry[FIELD]) for _, entry in installation.redis.xrange(installation.keys.events)]
    return [f"{event['run_id']} {event['kind']}" for event in events]


def drain(installation: Installation, count: int | None = None) -> None:
    """Take entries off the stream, as a recorder that has committed them."""
    stream = EventStream(installation.redis, installation.keys)
    stream.ensure_group()
    stream.done(stream.read(room=count))


def kept(keeper: LeaseKeeper) -> int:
    return len(keeper.kept)


def test_an_end_is_kept_until_it_was_drained(keeper: LeaseKeeper, installation: Installation) -> None:
    leases = [claim(keeper, f"r{n}") for n in range(3)]
    for lease in leases:
        finish(keeper, lease)
    drain(installation, 2)
    wait_until(lambda: kept(keeper) == 1)
    drain(installation)
    wait_until(lambda: kept(keeper) == 0)


def test_an_emptied_redis_is_told_again_in_order(keeper: LeaseKeeper, installation: Installation) -> None:
    for n in range(500):
        finish(keeper, claim(keeper, f"r{n}"))
    live = claim(keeper, "live")
    drain(installation, 100)
    wait_until(lambda: kept(keeper) == 400)
    installation.redis.flushall()
    wait_until(lambda: len(told(installation)) == 400)
    assert told(installation) == [f"r{n} succeeded" for n in range(100, 500)]
    for n in (100, 499):
        assert keeper.claim(f"r{n}", 1, "w", DAY, 0, "again") == Dropped("ended")
    assert keeper.claim("live", 1, "w", DAY, 0, "again") == Dropped("leased")
    finish(keeper, live)
    drain(installation)
    wait_until(lambda: kept(keeper) == 0)


def test_a_claim_that_begins_the_same_epoch_anew_hides_no_loss(keeper: LeaseKeeper, installation: Installation) -> None:
    finish(keeper, claim(keeper, "first"))
    installation.redis.flushall()
    stranger = LeaseKeeper(installation.settings)  # has seen nothing: it begins the first epoch once more
    finish(stranger, claim(stranger, "second"))
    wait_until(lambda: "first succeeded" in told(installation))
    assert installation.redis.get(installation.keys.epoch) == "1"
    stranger.stop()


def test_a_restart_that_loses_nothing_is_told_nothing_twice(
    keeper: LeaseKeeper, installation: Installation, own_redis: Server
) -> None:
    for n in range(5):
        finish(keeper, claim(keeper, f"r{n}"))
    drain(installation, 2)
    wait_until(lambda: kept(keeper) == 3)
    known = keeper.kept.generation
    own_redis.stop()
    own_redis.start()
    wait_until(lambda: keeper.kept.generation > known and kept(keeper) == 3 and keeper.kept.to_send == 0)
    assert told(installation) == [f"r{n} succeeded" for n in range(2, 5)]
    drain(installation)
    wait_until(lambda: kept(keeper) == 0)


def test_a_redis_that_went_back_is_told_what_it_forgot(
    keeper: LeaseKeeper, installation: Installation, own_redis: Server, tmp_path: Path
) -> None:
    """An old append-only file: records are there, but of before."""
    back = claim(keeper, "back")
    finish(keeper, claim(keeper, "old"))
    for run_id in ("retried", "again"):
        finish(keeper, claim(keeper, run_id), EventKind.RETRIED)
    own_redis.stop()
    shutil.copytree(tmp_path / "own-redis", tmp_path / "copy")
    own_redis.start()
    wait_until(lambda: keeper.kept.to_send == 0 and lives(installation, "back"))

    live = claim(keeper, "retried", attempt=2)
    finish(keeper, claim(keeper, "again", attempt=2))
    finish(keeper, back)
    finish(keeper, claim(keeper, "new"))
    own_redis.stop()
    shutil.rmtree(tmp_path / "own-redis")
    shutil.copytree(tmp_path / "copy", tmp_path / "own-redis")
    own_redis.start()

    wait_until(lambda: {"back succeeded", "again succeeded", "new succeeded"} <= set(told(installation)))
    assert told(installation).count("old succeeded") == 1
    assert installation.redis.hmget(installation.keys.run("again"), "attempt", "state") == ["2", "ended"]
    wait_until(lambda: installation.redis.hget(installation.keys.run("retried"), "fence") == str(live.fence))
    assert keeper.holds(live), "a record of before is no newer holder"
    finish(keeper, live)


def lives(installation: Installation, run_id: str) -> bool:
    """Whether a lease still holds, by the clock of Redis."""
    score = installation.redis.zscore(installation.keys.leases, run_id)
    seconds, micros = installation.redis.time()
    return score is not None and score > seconds * 1000 + micros / 1000


def test_a_retry_that_was_lost_with_its_message_is_not_closed_again(
    keeper: LeaseKeeper, installation: Installation
) -> None:
    """Nobody else knows what it asked for: with its end it would be over, without one the attempt is repeated."""
    finish(keeper, claim(keeper, "gone"), EventKind.RETRIED)
    finish(keeper, claim(keeper, "goes-on"), EventKind.RETRIED)
    finish(keeper, claim(keeper, "ended"))
    second = claim(keeper, "goes-on", attempt=2)
    installation.redis.flushall()
    wait_until(lambda: "ended succeeded" in told(installation))
    wait_until(lambda: keeper.kept.to_send == 0)
    assert sorted(told(installation)) == ["ended succeeded", "goes-on retried"]
    assert isinstance(keeper.claim("gone", 1, "w", DAY, 0, "again"), Lease)
    finish(keeper, second)


def test_what_ended_once_is_recorded_even_if_the_run_was_claimed_anew(
    keeper: LeaseKeeper, installation: Installation
) -> None:
    epochs = Epochs(installation.engine, installation.redis, installation.keys)
    finish(keeper, claim(keeper, "r1"))
    installation.redis.flushall()
    other = LeaseKeeper(installation.settings)
    epochs.keep(look(installation.redis, installation.keys))
    second = claim(other, "r1")
    wait_until(lambda: told(installation) == ["r1 succeeded"])
    record = installation.redis.hgetall(installation.keys.run("r1"))
    assert (record["state"], record["fence"]) == ("leased", str(second.fence))
    other.stop()


def test_sending_again_does_not_starve_renewals(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches as slow as a third of a lease: between two of them the leases are renewed."""
    monkeypatch.setattr(lease_module, "AGAIN", 1)

    class Slow(Claims):
        def finish_again(self, ends: Any) -> Any:
            due = monotonic_s() + 0.35
            wait_until(lambda: monotonic_s() > due)
            return super().finish_again(ends)

    monkeypatch.setattr(lease_module, "Claims", Slow)
    keeper = LeaseKeeper(installation.settings)
    keeper.start()
    for n in range(8):
        finish(keeper, claim(keeper, f"r{n}"))
    claim(keeper, "live")
    installation.redis.flushall()
    wait_until(lambda: lives(installation, "live"))
    assert keeper.kept.to_send
    while keeper.kept.to_send:
        assert lives(installation, "live")
    wait_until(lambda: len(told(installation)) == 8)
    assert told(installation) == [f"r{n} succeeded" for n in range(8)]
    keeper.stop()


def test_a_worker_that_stops_looks_once_more(installation: Installation) -> None:
    settings = installation.settings.model_copy(update={"lease_s": 60.0, "lease_renew_s": 20.0})
    keeper = LeaseKeeper(settings)
    keeper.start()
    finish(keeper, claim(keeper, "r1"))
    wait_until(lambda: keeper.kept.seen)
    installation.redis.flushall()
    keeper.stop()
    assert told(installation) == ["r1 succeeded"]
