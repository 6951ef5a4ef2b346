"""The scripts around an attempt: one holder at a time, a newer attempt never lost, a late end refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beatline.engine.claim import Claims, Dropped, Lease
from beatline.installation import Installation
from beatline.ledger.events import FIELD

DAY = "2026-11-22"


@pytest.fixture
def claims(installation: Installation) -> Claims:
    return Claims(installation.redis, installation.keys, lease_s=20)


def claim(claims: Claims, attempt: int = 1, worker: str = "w1", **options: Any) -> Lease:
    lease = claims.claim("r1", attempt, worker, DAY, **options)
    assert isinstance(lease, Lease)
    return lease


def kinds(installation: Installation) -> list[str]:
    return [json.loads(entry[FIELD])["kind"] for _, entry in installation.redis.xrange(installation.keys.events)]


def event(kind: str) -> str:
    return json.dumps({"kind": kind})


def expire(installation: Installation) -> None:
    installation.redis.zadd(installation.keys.leases, {"r1": 1})


def test_one_attempt_has_one_holder(claims: Claims) -> None:
    claim(claims)
    assert claims.claim("r1", 1, "w2", DAY) == Dropped("leased")


def test_an_ended_attempt_is_not_run_again(claims: Claims) -> None:
    assert claims.finish(claim(claims), "ended", event("succeeded"))
    assert claims.claim("r1", 1, "w2", DAY) == Dropped("ended")


def test_a_newer_attempt_waits_for_the_older_one_and_then_runs(claims: Claims) -> None:
    first = claim(claims)
    assert claims.claim("r1", 2, "w2", DAY) is None
    assert claims.finish(first, "closed", event("retried"))
    second = claim(claims, attempt=2, worker="w2")
    assert second.fence > first.fence


def test_the_day_of_the_first_claim_stands(claims: Claims) -> None:
    claims.finish(claim(claims), "closed", event("retried"))
    later = claims.claim("r1", 2, "w2", "2026-11-23")
    assert isinstance(later, Lease)
    assert later.day == DAY


def test_a_late_end_is_refused_and_recorded(claims: Claims, installation: Installation) -> None:
    late = claim(claims)
    expire(installation)
    assert claims.return_run(
        "r1", late.fence, events=[event("lost")], queue_list=installation.keys.queue("default"), message="m",
        expired_only=True,
    )  # fmt: skip
    second = claim(claims, attempt=2, worker="w2")

    assert not claims.finish(late, "ended", event("succeeded"))
    assert kinds(installation) == ["lost"]
    assert claims.finish(second, "ended", event("succeeded"))
    assert installation.redis.lrange(installation.keys.queue("default"), 0, -1) == ["m"]


def test_a_lease_that_holds_is_not_taken(claims: Claims, installation: Installation) -> None:
    lease = claim(claims)
    queue = installation.keys.queue("default")
    assert not claims.return_run("r1", lease.fence, events=[], queue_list=queue, message="m", expired_only=True)
    assert not claims.return_run("r1", lease.fence + 1, events=[], queue_list=queue, message="m", expired_only=False)
    assert installation.redis.llen(queue) == 0
    assert claims.renew([lease]).gone == frozenset()


def test_a_dead_run_goes_into_no_queue(claims: Claims, installation: Installation) -> None:
    lease = claim(claims)
    queue = installation.keys.queue("default")
    assert claims.return_run(
        "r1", lease.fence, events=[event("lost"), event("dead")], queue_list=queue, message="", expired_only=False
    )
    assert installation.redis.llen(queue) == 0
    assert claims.claim("r1", 1, "w2", DAY) == Dropped("dead")


def test_renewing_names_what_is_no_longer_ours(claims: Claims, installation: Installation) -> None:
    lost = claim(claims)
    expire(installation)
    claims.return_run("r1", lost.fence, events=[], queue_list="q", message="", expired_only=True)
    assert claims.renew([lost]).gone == {lost.fence}


def test_a_lease_and_an_end_survive_a_wiped_redis(claims: Claims, installation: Installation) -> None:
    lease = claim(claims)
    _wipe(installation)

    assert claims.renew([lease]).gone == frozenset()
    assert claims.claim("r1", 1, "w2", DAY) == Dropped("leased")

    _wipe(installation)
    assert claims.finish(lease, "ended", event("succeeded"))
    assert kinds(installation) == ["succeeded"]


def test_fences_grow_over_a_wiped_redis(claims: Claims, installation: Installation) -> None:
    before = claim(claims)
    _wipe(installation)
    after = claim(claims, attempt=2, epoch=before.fence >> 32)
    assert after.fence > before.fence


def test_an_abandoned_lease_has_expired(claims: Claims, installation: Installation) -> None:
    lease = claim(claims)
    assert claims.abandon(lease, "killed", begun=True)
    assert claims.return_run("r1", lease.fence, events=[], queue_list="q", message="", expired_only=True)


def test_a_stock_message_is_introduced_once(claims: Claims, installation: Installation) -> None:
    claims.finish(claim(claims, accepted=event("accepted")), "closed", event("retried"))
    claim(claims, attempt=2, accepted=event("accepted"))
    assert kinds(installation) == ["accepted", "retried"]


def test_every_record_has_a_time_to_live(claims: Claims, installation: Installation) -> None:
    lease = claim(claims)
    for step in (lambda: None, lambda: claims.renew([lease]), lambda: claims.finish(lease, "ended", "{}")):
        step()
        assert 86_000 < installation.redis.ttl(installation.keys.run("r1")) <= 86_400


def _wipe(installation: Installation) -> None:
    keys = installation.keys
    installation.redis.delete(keys.run("r1"), keys.leases, keys.events, keys.epoch, keys.fence)
