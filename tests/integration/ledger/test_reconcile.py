"""What was lost on the way comes back: runs whose lease expired."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.clock import utc_now, utc_today
from beatline.engine.claim import Lease
from beatline.installation import Installation
from beatline.ledger.states import EventKind
from support.ledger import accepted, event, message, rows, run_row, tell, waiting
from support.slow_recorder import SlowRecorder, in_slow_motion

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # of redis-py, by Celery


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(lease_s=20.0)


@pytest.fixture
def ledger(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> SlowRecorder:
    return in_slow_motion(installation, monkeypatch)


def test_nothing_is_published_before_every_worker_has_met_a_new_epoch(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("expired"), accepted("given-up")])
    old = utc_now() - timedelta(hours=1)
    tell(ledger.installation, [accepted("missing", at=old.timestamp())])
    ledger.lose("expired", 1)
    ledger.claims.abandon(ledger.lose("given-up", 1), "its pool process died", begun=True)
    ledger.drain()
    client: Any = ledger.installation.redis
    client.delete(ledger.installation.keys.epoch)
    ledger.begin_epoch(settled=False)
    ledger.round(4)
    assert ledger.queued() == []
    assert ledger.leases() == ["given-up", "expired"]
    ledger.round(2)
    assert sorted(ledger.queued()) == [("expired", 2), ("given-up", 2), ("missing", 1)]


def test_a_recorder_that_starts_later_waits_only_for_proofs_of_silence(ledger: SlowRecorder) -> None:
    client: Any = ledger.installation.redis
    client.delete(ledger.installation.keys.epoch)
    ledger.begin_epoch(settled=False)
    ledger.round()
    tell(ledger.installation, [accepted("given-up")])
    ledger.claims.abandon(ledger.lose("given-up", 1), "its pool process died", begun=True)
    ledger.drain()
    ledger.lose("expired", 1)
    later = SlowRecorder(ledger.installation, ledger.clock, settled=False)
    later.round(1)
    assert later.queued() == [("given-up", 2)]
    assert later.leases() == ["expired"]


def test_only_one_reconciler_acts(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1")])
    ledger.claims.abandon(ledger.lose("r1", 1), "its pool process died", begun=True)
    ledger.drain()
    with ledger.installation.engine.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('beatline.reconcile:beatline', 0))"))
        ledger.round()
        assert ledger.queued() == []
    ledger.round(1)
    assert ledger.queued() == [("r1", 2)]


def test_a_run_whose_lease_expired_goes_back_as_its_next_attempt(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1", priority=5)])
    ledger.lose("r1", 1)
    ledger.drain()
    ledger.round(4)
    assert ledger.leases() == ["r1"], "not before this Redis has answered for a full lease"
    ledger.round(2)
    ledger.drain()
    assert ledger.queued() == [("r1", 2)]
    assert ledger.leases() == []
    assert ledger.state("r1") == ("queued", 2)
    with ledger.installation.engine.connect() as conn:
        [attempt] = rows(conn, "attempts")
    assert (attempt["outcome"], attempt["worker"]) == ("lost", "w@x")
    assert attempt["reason"] == "its worker stopped renewing its lease"
    # The late worker's end is refused from now on, and the next attempt may be claimed.
    assert isinstance(ledger.claims.claim("r1", 2, "other@x", utc_today().isoformat()), Lease)


def test_a_lease_that_its_holder_gave_up_needs_no_proof_of_silence(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("died"), accepted("stopped")])
    ledger.claims.abandon(ledger.lose("died", 1), "its pool process died", begun=True)
    ledger.claims.abandon(ledger.lose("stopped", 1, begun=False), "", begun=False)
    ledger.drain()
    ledger.round(1)
    ledger.drain()
    assert sorted(ledger.queued()) == [("died", 2), ("stopped", 2)]
    with ledger.installation.engine.connect() as conn:
        told = {row["run_id"]: (row["outcome"], row["reason"]) for row in rows(conn, "attempts")}
    assert told == {"died": ("lost", "its pool process died"), "stopped": ("returned", None)}


def test_a_lease_that_holds_is_left_alone(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1")])
    ledger.claims.claim("r1", 1, "w@x", utc_today().isoformat())
    ledger.drain()
    ledger.round()
    assert ledger.queued() == []
    assert ledger.leases() == ["r1"]


def test_a_run_that_cost_three_workers_is_dead(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1")])
    for attempt, worker in ((1, "a@x"), (2, "b@x"), (3, "c@x")):
        ledger.lose("r1", attempt, worker)
        ledger.drain()
        ledger.round()
        ledger.drain()
    assert ledger.queued() == [("r1", 2), ("r1", 3)]
    with ledger.installation.engine.connect() as conn:
        row = run_row(conn, "r1")
        outcomes = sorted(a["outcome"] for a in rows(conn, "attempts"))
    assert (row["state"], outcomes) == ("dead", ["dead", "lost", "lost"])
    assert row["reason"].startswith("its worker died three times (a@x, b@x, c@x)")
    assert ledger.leases() == []


def test_a_reserved_run_goes_back_uncounted_until_the_tenth_time(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1")])
    for attempt in range(1, 11):
        ledger.lose("r1", attempt, begun=False)
        ledger.drain()
        ledger.round()
        ledger.drain()
    with ledger.installation.engine.connect() as conn:
        row = run_row(conn, "r1")
        outcomes = [a["outcome"] for a in rows(conn, "attempts")]
    assert row["state"] == "dead"
    assert "10 times before it began" in row["reason"]
    assert outcomes.count("returned") == 9
    assert ledger.queued() == [("r1", attempt) for attempt in range(2, 11)]


def test_what_a_stopping_worker_gave_back_does_not_count(ledger: SlowRecorder) -> None:
    given_back = [event(EventKind.RETURNED, "r1", attempt=n, worker="w@x", fence=n) for n in range(1, 12)]
    tell(ledger.installation, [accepted("r1"), *given_back])
    ledger.lose("r1", 12, begun=False)
    ledger.drain()
    ledger.round()
    assert ledger.queued() == [("r1", 13)]


def test_the_message_of_a_retry_is_the_one_sent_again(ledger: SlowRecorder) -> None:
    retried = event(EventKind.RETRIED, "r1", worker="w@x", fence=1)
    tell(ledger.installation, [accepted("r1"), retried])
    ledger.lose("r1", 2)
    ledger.drain()
    ledger.round()
    assert ledger.queued() == [], "attempt 2's own message has not been read yet"
    assert ledger.leases() == ["r1"]
    tell(ledger.installation, [accepted("r1", attempt=2, message=message("r1", priority=9, attempt=2).payload)])
    ledger.drain()
    ledger.round(1)
    [again] = waiting(ledger.installation)
    assert (again.run_id, again.attempt, again.priority) == ("r1", 3, 9)


def test_a_run_that_nobody_knows_holds_up_nobody(ledger: SlowRecorder) -> None:
    for number in range(150):
        ledger.lose(f"unknown-{number:03}", 1, begun=False)
    tell(ledger.installation, [accepted("zz")])
    ledger.lose("zz", 1)
    ledger.drain()
    ledger.round()
    assert ledger.queued() == [("zz", 2)]
    assert len(ledger.leases()) == 150


def test_a_record_that_cannot_be_read_holds_up_nobody(ledger: SlowRecorder, caplog: pytest.LogCaptureFixture) -> None:
    redis: Any = ledger.installation.redis
    keys = ledger.installation.keys
    tell(ledger.installation, [accepted(run_id) for run_id in ("attempt", "fence", "kind", "score", "zz")])
    for run_id in ("attempt", "fence", "kind", "score", "zz"):
        ledger.lose(run_id, 1)
    redis.hset(keys.run("attempt"), "attempt", "1e+30")
    redis.hset(keys.run("fence"), "fence", "first")
    redis.delete(keys.run("kind"))
    redis.set(keys.run("kind"), "no record", ex=600)
    redis.zadd(keys.leases, {"score": "-inf"})
    ledger.drain()
    ledger.round(12)
    assert ledger.queued() == [("zz", 2)]
    assert sorted(ledger.leases()) == ["attempt", "fence", "kind", "score"]
    told = [one.getMessage() for one in caplog.records if one.getMessage().startswith("lost_run_waits")]
    assert len(told) == 4, "each is spoken of once"


def test_a_lease_whose_record_is_forgotten_is_settled_from_postgresql(ledger: SlowRecorder) -> None:
    """No recorder ran for longer than a record lives."""
    tell(ledger.installation, [accepted("r1"), accepted("r2")])
    client: Any = ledger.installation.redis
    for run_id in ("r1", "r2"):
        ledger.lose(run_id, 1)
        client.delete(ledger.installation.keys.run(run_id))
    tell(ledger.installation, [event(EventKind.SUCCEEDED, "r2", worker="w@x", fence=2)])
    ledger.drain()
    ledger.round()
    ledger.drain()
    assert ledger.queued() == [("r1", 2)]
    assert ledger.leases() == []
    assert ledger.state("r1") == ("queued", 2)
    assert ledger.state("r2") == ("succeeded", 1)


def test_a_run_that_has_ended_is_not_run_again(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1")])
    lease = ledger.lose("r1", 1)
    ended = event(EventKind.SUCCEEDED, "r1", worker="w@x", fence=lease.fence)
    assert ledger.claims.finish(lease, "ended", ended.to_json())
    client: Any = ledger.installation.redis
    client.zadd(ledger.installation.keys.leases, {"r1": 0})
    ledger.drain()
    ledger.round()
    assert (ledger.queued(), ledger.leases(), ledger.state("r1")) == ([], [], ("succeeded", 1))


def test_a_run_whose_message_was_not_kept_is_dead(ledger: SlowRecorder) -> None:
    tell(ledger.installation, [accepted("r1", message=None)])
    ledger.lose("r1", 1)
    ledger.drain()
    ledger.round()
    ledger.drain()
    with ledger.installation.engine.connect() as conn:
        row = run_row(conn, "r1")
    assert row["state"] == "dead"
    assert "too large to be kept" in row["reason"]
