"""Which messages the claim doubts: those that are older than Redis's memory of runs, or than its data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.exceptions import RedisError

from beatline.engine.claim import Claims, Doubted, Dropped, Lease
from beatline.engine.doubt import CLOCKS_MS, DOUBTED_AGE_MS, Vouched
from beatline.engine.server import Server, ServerChangedError
from beatline.installation import Installation, connect_redis
from beatline.ledger.epochs import Began, Epochs, look
from support.servers import Server as RedisServer

DAY = "2026-11-22"
HOUR_MS = 3600 * 1000
LEASE_S = 30.0


@pytest.fixture
def claims(installation: Installation) -> Claims:
    return Claims(installation.redis, installation.keys, lease_s=LEASE_S)


def now_ms(installation: Installation) -> int:
    return look(installation.redis, installation.keys).now_ms


def begin_epoch(installation: Installation, epoch: int, ago_ms: int, *, survived: bool = False) -> None:
    """As if the epoch had begun so long ago."""
    keys = installation.keys
    began = Began(epoch, now_ms(installation) - ago_ms, survived, "")
    installation.redis.mset({keys.epoch: epoch, keys.since: began.note()})


def begun(installation: Installation) -> Began:
    began = look(installation.redis, installation.keys).began
    assert began is not None
    return began


@pytest.mark.parametrize(
    ("sent_ago_ms", "began_ago_ms", "sender", "doubted"),
    [
        (60_000, 2 * 60_000, 0, False),
        (0, CLOCKS_MS + 1000, 0, False),
        (0, CLOCKS_MS - 1000, 0, True),  # sent when the epoch had just begun, by a clock that may be ahead
        (60_000, 30_000, 0, True),  # sent before the epoch began
        (60_000, 30_000, 5, False),  # its sender held a lease of this epoch
        (60_000, 120_000, 4, True),
        (60_000, 120_000, 6, True),
        (DOUBTED_AGE_MS - 60_000, 48 * HOUR_MS, 0, False),
        (DOUBTED_AGE_MS + 1000, 48 * HOUR_MS, 0, True),
        (DOUBTED_AGE_MS + 1000, 48 * HOUR_MS, 5, True),
        (-HOUR_MS, 48 * HOUR_MS, 0, False),  # a clock that is an hour ahead
    ],
)
def test_what_is_doubted(
    claims: Claims, installation: Installation, sent_ago_ms: int, began_ago_ms: int, sender: int, doubted: bool
) -> None:
    begin_epoch(installation, 5, began_ago_ms)
    sent = now_ms(installation) - sent_ago_ms
    claimed = claims.claim("r1", 1, "w1", DAY, epoch=sender, sent_ms=sent)
    assert isinstance(claimed, Doubted if doubted else Lease)
    assert installation.redis.exists(installation.keys.run("r1")) == (not doubted)
    assert installation.redis.zcard(installation.keys.leases) == (not doubted)


def test_what_postgresql_vouched_for_is_claimed_once(claims: Claims, installation: Installation) -> None:
    begin_epoch(installation, 5, HOUR_MS)
    asked = claims.claim("r1", 1, "w1", DAY, sent_ms=0, accepted="{}")
    assert isinstance(asked, Doubted)
    assert asked.epoch == 5
    assert asked.before_ms == pytest.approx(now_ms(installation) - HOUR_MS + CLOCKS_MS, abs=2000)
    assert installation.redis.xlen(installation.keys.events) == 0
    lease = claims.claim("r1", 1, "w1", DAY, sent_ms=0, accepted="{}", vouched=Vouched(5))
    assert isinstance(lease, Lease)
    assert lease.fence >> 32 == 5
    assert installation.redis.xlen(installation.keys.events) == 1
    assert claims.claim("r1", 1, "w2", DAY, sent_ms=0, vouched=Vouched(5)) == Dropped("leased")
    assert claims.claim("r1", 2, "w2", DAY, sent_ms=0) is None, "a record decides, whatever the message's age"


def test_a_word_that_was_given_in_another_epoch_does_not_count(claims: Claims, installation: Installation) -> None:
    begin_epoch(installation, 5, HOUR_MS)
    assert isinstance(claims.claim("r1", 1, "w1", DAY, sent_ms=0, vouched=Vouched(4)), Doubted)


@pytest.mark.parametrize(
    ("survived", "running", "began_ago_s", "holds_s"),
    [
        (False, False, 1.0, 0.0),
        (True, False, 1.0, LEASE_S / 3 - 1),
        (True, False, LEASE_S / 3 + 1, 0.0),
        (True, True, LEASE_S / 3 + 1, LEASE_S * 2 / 3 - 1),
        (False, True, 1.0, LEASE_S - 1),
        (True, True, LEASE_S + 1, 0.0),
    ],
)
def test_who_held_a_run_before_has_time_to_say_so(
    claims: Claims, installation: Installation, survived: bool, running: bool, began_ago_s: float, holds_s: float
) -> None:
    begin_epoch(installation, 5, int(began_ago_s * 1000), survived=survived)
    claimed = claims.claim("r1", 1, "w1", DAY, sent_ms=0, vouched=Vouched(5, running=running))
    if not holds_s:
        assert isinstance(claimed, Lease)
        return
    assert isinstance(claimed, Doubted)
    assert claimed.hold_s == pytest.approx(holds_s, abs=1.5)
    fresh = claims.claim("r2", 1, "w1", DAY, sent_ms=now_ms(installation) + 2 * CLOCKS_MS)
    assert isinstance(fresh, Lease), "what is not in doubt waits for nobody"


def test_an_epoch_that_nobody_noted_began_no_later_than_now(claims: Claims, installation: Installation) -> None:
    sent = now_ms(installation)
    first = claims.claim("r1", 1, "w1", DAY, sent_ms=sent)
    assert isinstance(first, Doubted), "a new Redis, or an emptied one: what was sent before cannot be told apart"
    noted = begun(installation)
    assert (noted.epoch, noted.survived) == (1, False)
    assert noted.since_ms == pytest.approx(sent, abs=1000)
    assert isinstance(claims.claim("r2", 1, "w1", DAY, sent_ms=sent + 2 * CLOCKS_MS), Lease)
    assert begun(installation) == noted


def test_the_key_of_an_older_beatline_is_taken_over(claims: Claims, installation: Installation) -> None:
    installation.redis.set(installation.keys.epoch, 7)
    sent = now_ms(installation)
    assert isinstance(claims.claim("r1", 1, "w1", DAY, sent_ms=sent), Doubted)
    assert (begun(installation).epoch, begun(installation).survived) == (7, True)
    installation.redis.set(installation.keys.epoch, 8)  # by a recorder of that version, which notes no beginning
    assert look(installation.redis, installation.keys).began is None
    assert isinstance(claims.claim("r1", 1, "w1", DAY, sent_ms=sent), Doubted)
    assert begun(installation).epoch == 8


def test_a_claim_begins_an_epoch_where_it_meets_another_server(installation: Installation) -> None:
    server = Server()
    server.run_id = "a" * 40
    claims = Claims(installation.redis, installation.keys, lease_s=LEASE_S, server=server)
    before = claims.claim("r1", 1, "w1", DAY)
    assert isinstance(before, Lease)
    server.run_id = "b" * 40
    asked = claims.claim("r2", 1, "w1", DAY, sent_ms=now_ms(installation))
    assert isinstance(asked, Doubted)
    assert asked.epoch == (before.fence >> 32) + 1
    assert (begun(installation).server, begun(installation).survived) == (server.run_id, True)
    after = claims.claim("r3", 1, "w1", DAY)
    assert isinstance(after, Lease)
    assert after.fence >> 32 == asked.epoch


def test_a_restart_is_noticed_by_the_first_call_over_the_new_connection(own_redis: RedisServer) -> None:
    server = Server()
    redis: Any = connect_redis(own_redis.url, single_connection_client=True, redis_connect_func=server.seen)
    first = server.run_id
    assert first == redis.info("server")["run_id"]
    own_redis.stop()
    own_redis.start()
    with pytest.raises(RedisError):
        redis.ping()  # over the old connection
    with pytest.raises(ServerChangedError):
        redis.ping()  # what was made for the old server is not sent to the new one
    assert server.run_id not in ("", first)
    assert redis.ping()
    redis.close()


def test_recorder_and_claims_agree_on_when_an_epoch_began(installation: Installation) -> None:
    redis, keys = installation.redis, installation.keys
    epochs = Epochs(installation.engine, redis, keys)
    run_id = look(redis, keys).run_id
    server = Server()
    server.run_id = run_id
    claims = Claims(redis, keys, lease_s=LEASE_S, server=server)
    claims.claim("r1", 1, "w1", DAY)
    noted = begun(installation)
    assert epochs.keep(look(redis, keys)) == 2
    assert begun(installation) == Began(2, noted.since_ms, False, run_id), "nothing was lost since the claim noted it"
    assert epochs.keep(look(redis, keys)) is None
    assert Epochs(installation.engine, redis, keys).keep(look(redis, keys)) is None, (
        "and after a restart of the recorder"
    )
    redis.delete(keys.since)  # as if an older Beatline had begun it
    assert epochs.keep(look(redis, keys)) is None
    assert begun(installation) == Began(2, noted.since_ms, True, run_id)


def test_an_emptied_redis_is_noticed_even_if_claims_come_to_the_same_number(installation: Installation) -> None:
    redis, keys = installation.redis, installation.keys
    epochs = Epochs(installation.engine, redis, keys)
    assert epochs.keep(look(redis, keys)) == 1
    server = Server()
    server.run_id = look(redis, keys).run_id
    redis.delete(keys.epoch, keys.since, keys.fence)
    Claims(redis, keys, lease_s=LEASE_S, server=server).claim("r1", 1, "w1", DAY)
    assert redis.get(keys.epoch) == "1"
    assert epochs.keep(look(redis, keys)) == 2


def test_a_note_that_cannot_be_read_is_none(installation: Installation) -> None:
    for text in (None, "", "7", "7 x 1 a", "7 12 2 a", "7 12 1", json.dumps([7])):
        assert Began.parse(text) is None
    assert Began.parse("7 12 1 ") == Began(7, 12, True, "")
