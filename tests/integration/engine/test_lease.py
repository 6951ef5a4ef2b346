"""The keeper of leases: renews whatever else it has to do, and gives no end away."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from beatline.clock import monotonic_s
from beatline.engine.claim import Claims, Lease
from beatline.engine.held import End
from beatline.engine.lease import LeaseKeeper
from beatline.installation import Installation
from beatline.ledger.events import FIELD, Event
from beatline.ledger.states import EventKind
from support import keys
from support.servers import Server
from support.serving import MakeSettings
from support.waiting import wait_until

DAY = "2026-11-22"


@pytest.fixture
def settings(make_settings: MakeSettings) -> object:
    return make_settings(lease_s=0.9, lease_renew_s=0.3)


@pytest.fixture
def keeper(installation: Installation) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(installation.settings)
    keeper.start()
    yield keeper
    keeper.stop()


def claim(keeper: LeaseKeeper, run_id: str = "r1", attempt: int = 1) -> Lease:
    lease = keeper.claim(run_id, attempt, "w", DAY, 0, f"{run_id}-{attempt}")
    assert isinstance(lease, Lease)
    return lease


def end(lease: Lease) -> End:
    return End(lease, "ended", event(lease, EventKind.SUCCEEDED))


def event(lease: Lease, kind: EventKind = EventKind.STARTED) -> Event:
    return Event(kind=kind, run_id=lease.run_id, attempt=lease.attempt, day=DAY, at=1.0, task="t", queue="q")


def kinds(installation: Installation) -> list[str]:
    told = [json.loads(entry[FIELD]) for _, entry in installation.redis.xrange(installation.keys.events)]
    return [f"{'began, ' if 'began' in event else ''}{event['kind']}" for event in told]


def lives(installation: Installation, run_id: str = "r1") -> bool:
    """Whether a lease still holds, by the clock of Redis."""
    score = installation.redis.zscore(installation.keys.leases, run_id)
    seconds, micros = installation.redis.time()
    return score is not None and score > seconds * 1000 + micros / 1000


def test_a_short_run_s_begin_travels_with_its_end(
    keeper: LeaseKeeper, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beatline.engine.lease.BEGIN_LINGER_S", 60.0)
    lease = claim(keeper)
    keeper.begin(lease, event(lease), None)
    assert keeper.finish(end(lease))
    assert kinds(installation) == ["began, succeeded"]


def test_a_begin_is_told_while_the_run_lasts(keeper: LeaseKeeper, installation: Installation) -> None:
    lease = claim(keeper)
    keeper.begin(lease, event(lease), None)
    wait_until(lambda: kinds(installation) == ["started"])
    assert installation.redis.hget(installation.keys.run("r1"), "begun") == "1"
    assert keeper.finish(end(lease))


def test_an_end_that_overtakes_its_begin_takes_it_along(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaken: list[bool] = []

    class Overtaken(Claims):
        """Claims whose begin reaches Redis only after the end did, as two connections may have it."""

        def begin(self, lease: Lease, started: str) -> bool:
            overtaken.append(ours.finish(end(lease)))
            return super().begin(lease, started)

    monkeypatch.setattr("beatline.engine.lease.Claims", Overtaken)
    ours = LeaseKeeper(installation.settings)
    ours.start()
    lease = claim(ours)
    ours.begin(lease, event(lease), None)
    wait_until(lambda: overtaken == [True])
    ours.stop()
    assert kinds(installation) == ["began, succeeded"]


def test_short_runs_do_not_keep_a_long_one_from_being_renewed(keeper: LeaseKeeper, installation: Installation) -> None:
    claim(keeper, "long")
    busy = claim(keeper, "busy-0")
    keeper.begin(busy, event(busy), None)
    lapsed = 0
    for n in range(1, 400):
        lease = claim(keeper, f"busy-{n}")
        keeper.begin(lease, event(lease), None)  # there is always one whose begin has not been told
        lapsed += not lives(installation, "long")
    assert lapsed == 0


def test_a_lease_is_renewed_for_as_long_as_its_end_is_on_its_way(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    class HalfOpen(Claims):
        """Claims whose ends are on a connection that nobody answers, until its time-out."""

        def finish(self, lease: Lease, state: Literal["ended", "closed"], end: str) -> str | None:
            if not answers.wait(10):
                raise TimeoutError
            return super().finish(lease, state, end)

    monkeypatch.setattr("beatline.engine.lease.Claims", HalfOpen)
    ours = LeaseKeeper(installation.settings)
    ours.start()
    try:
        lease = claim(ours)
        ours.begin(lease, event(lease), None, at_once=True)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(ours.finish, end(lease))
            wait_until(lambda: not ours.holds(lease))
            lapsed, until = 0, monotonic_s() + 2 * installation.settings.lease_s
            while monotonic_s() < until:
                lapsed += not lives(installation)
            answers.set()
            assert ended.result(10), "not refused"
        assert lapsed == 0
        assert [kind for kind in kinds(installation) if kind.endswith("succeeded")] == [kinds(installation)[-1]]
        wait_until(lambda: not lives(installation), what="no lease is left")
    finally:
        answers.set()
        ours.stop()


def test_a_late_end_leaves_the_next_attempt_its_lease(
    keeper: LeaseKeeper, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beatline.engine.lease.BEGIN_LINGER_S", 60.0)
    late = claim(keeper)
    claims = Claims(installation.redis, installation.keys, 20.0)
    claims.return_run("r1", late.fence, events=[], queue_list=installation.keys.queue("q"), message="m",
                      expired_only=False)  # fmt: skip
    installation.redis.delete(installation.keys.queue("q"), installation.keys.index("q"))
    second = claim(keeper, attempt=2)
    keeper.begin(second, event(second), None)
    assert not keeper.finish(end(late))
    assert keeper.holds(second)
    assert keeper.finish(end(second))
    assert kinds(installation) == ["refused", "began, succeeded"]


def test_a_run_has_ten_seconds_past_its_hard_limit_before_it_hangs(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = LeaseKeeper(installation.settings)  # which renews nothing: only the clock goes on
    lease, began = claim(keeper), monotonic_s()
    monkeypatch.setattr("beatline.engine.lease.monotonic_s", lambda: began)
    keeper.begin(lease, event(lease), 60.0)
    monkeypatch.setattr("beatline.engine.lease.monotonic_s", lambda: began + 69.9)
    assert (keeper.held(), keeper.running(hung=True)) == ((lease,), ())
    monkeypatch.setattr("beatline.engine.lease.monotonic_s", lambda: began + 70.0)
    assert (keeper.held(), keeper.running(hung=True)) == ((), ("t r1",))
    keeper.stop()


def test_a_hung_run_is_renewed_no_more(
    keeper: LeaseKeeper, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beatline.engine.lease.HUNG_GRACE_S", 0.0)
    lease = claim(keeper)
    keeper.begin(lease, event(lease), 0.1)
    wait_until(lambda: not lives(installation), what="the lease has expired")
    assert keeper.held() == ()


def test_what_the_pool_never_got_is_forgotten_when_the_connection_is_lost(keeper: LeaseKeeper) -> None:
    waiting, given, begun = (claim(keeper, name) for name in ("waiting", "given", "begun"))
    keeper.hand_over(given)
    keeper.begin(begun, event(begun), None)
    keeper.forget_waiting(None)
    assert set(keeper.held()) == {given, begun}
    keeper.forget_waiting({"given"})
    assert set(keeper.held()) == {given, begun}
    keeper.forget_waiting(set())
    assert keeper.held() == (begun,)
    assert not keeper.holds(waiting)


def test_stopping_gives_up_what_is_held(installation: Installation) -> None:
    keeper = LeaseKeeper(installation.settings)
    keeper.start()
    claim(keeper)
    keeper.stop()
    assert installation.redis.zscore(installation.keys.leases, "r1") == 0


def test_an_end_outlives_an_outage_and_the_log_stays_quiet(
    own_redis: Server, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(redis_url=own_redis.url, result_url=own_redis.url, lease_s=0.9, lease_renew_s=0.3)
    installation = Installation(settings)
    keeper = LeaseKeeper(settings)
    keeper.start()
    lease = claim(keeper)
    with caplog.at_level(logging.WARNING):
        own_redis.stop()
        assert keeper.finish(end(lease)), "kept, and sent when Redis is back"
        wait_until(lambda: "redis_away" in caplog.text)
        said, since = len(caplog.records), monotonic_s()
        wait_until(lambda: monotonic_s() > since + 1.5)  # four renewals come due
        own_redis.start()
        wait_until(lambda: kinds(installation) == ["succeeded"], 20)
    assert len(caplog.records) - said <= 5
    keeper.stop()
    installation.redis.close()


def test_a_redis_that_lost_its_data_is_told_what_it_knew_of_a_lease(
    keeper: LeaseKeeper, installation: Installation
) -> None:
    begun, reserved = claim(keeper, "begun"), claim(keeper, "reserved")
    keeper.park_if_lost(begun)
    keeper.begin(begun, event(begun), None)
    wait_until(lambda: kinds(installation) == ["started"])
    wait_until(lambda: keeper.kept.seen is not None and keeper.kept.seen.epoch > 0)
    keys.remove(installation.settings.redis_url, installation.keys.prefix)

    wait_until(lambda: kinds(installation) == ["started"], what="it is told again that the attempt began")
    wait_until(lambda: lives(installation, "begun") and lives(installation, "reserved"))
    for lease, facts in ((begun, ["1", str(begun.fence)]), (reserved, ["0", None])):
        assert installation.redis.hmget(installation.keys.run(lease.run_id), "begun", "parks") == facts
    assert keeper.finish(end(begun))


def test_an_answer_that_was_lost_is_asked_for_again(installation: Installation) -> None:
    claims = Claims(installation.redis, installation.keys, 20.0)
    first = claims.claim("r1", 1, "w", DAY, token="d1")
    assert claims.claim("r1", 1, "w", DAY, token="d1") == first
    assert isinstance(first, Lease)
    for _ in range(2):
        assert claims.finish(first, "ended", event(first, EventKind.SUCCEEDED).to_json())
    assert kinds(installation) == ["succeeded"]
