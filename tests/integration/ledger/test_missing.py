"""Runs that are queued and in no queue come back; a backlog is left alone, however old it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.exceptions import RedisError

from beatline.clock import utc_now, utc_today
from beatline.engine import headers as h
from beatline.engine.claim import Claims
from beatline.engine.messages import StoredMessage, list_key, parked_key
from beatline.installation import Installation
from beatline.ledger import missing
from beatline.ledger.database import sql
from beatline.ledger.epochs import look
from beatline.ledger.missing import MissingMessages
from beatline.ledger.stream import EventStream
from beatline.ledger.write import write
from support.ledger import accepted, message, tell, waiting
from support.servers import Server
from support.serving import MakeSettings

OLD_S = 600.0


@pytest.fixture
def drain(installation: Installation) -> Callable[[], None]:
    stream = EventStream(installation.redis, installation.keys)
    stream.ensure_group()

    def drain() -> None:
        while entries := stream.read():
            assert write(installation.engine, entries, installation.keyring) == 0
            stream.done(entries)

    return drain


@pytest.fixture
def put_back(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, int]]]:
    monkeypatch.setattr(missing, "EVERY_S", 0.0)
    monkeypatch.setattr(missing, "CONFIRM_S", 0.0)
    search = MissingMessages(installation, installation.redis)

    def put_back() -> list[tuple[str, int]]:
        """A look, and one that confirms what it doubted; what lies in the queue `default` after it."""
        for _ in range(2):
            search.put_back(look(installation.redis, installation.keys))
        return [(one.run_id, one.attempt) for one in waiting(installation)]

    return put_back


def queued(
    installation: Installation, run_id: str, age_s: float = OLD_S, *, listed: bool = False, **facts: Any
) -> None:
    """A run that was queued so long ago; its message lies in the list only if it is `listed`."""
    at = (utc_now() - timedelta(seconds=age_s)).timestamp()
    sent = message(run_id, priority=facts.get("priority", 0))
    aged = json.loads(sent.payload)
    aged["headers"][h.PUBLISHED] = at
    sent = StoredMessage.parse(json.dumps(aged))
    tell(installation, [accepted(run_id, at=at, message=sent.payload, **facts)])
    if listed:
        installation.redis.lpush(list_key(installation.keys, sent.queue, sent.priority), sent.payload)


def test_what_waits_for_postgresql_s_word_is_not_missing(
    installation: Installation, drain: Callable[[], None], put_back: Callable[[], list[tuple[str, int]]]
) -> None:
    """A worker parked it while PostgreSQL was away, and has not brought it back yet."""
    queued(installation, "vanished", age_s=3 * OLD_S)
    queued(installation, "parked", age_s=2 * OLD_S, listed=True)
    default = list_key(installation.keys, "default", 0)
    installation.redis.rename(default, parked_key(default))
    queued(installation, "waits", listed=True)
    drain()
    assert put_back() == [("waits", 1), ("vanished", 1)]


def test_a_message_that_vanished_is_sent_again(
    installation: Installation, drain: Callable[[], None], put_back: Callable[[], list[tuple[str, int]]]
) -> None:
    queued(installation, "gone")
    queued(installation, "young", age_s=1.0)
    drain()
    assert put_back() == [("gone", 1)]
    drain()
    assert put_back() == [("gone", 1)], "once: from now on its age counts anew"


def test_a_message_that_goes_on_vanishing_is_not_executed_for_ever(
    installation: Installation, drain: Callable[[], None], put_back: Callable[[], list[tuple[str, int]]]
) -> None:
    """As where a stock worker serves the queue: it claims nothing, and tells nobody of an end."""
    queued(installation, "gone")
    seen: list[list[tuple[str, int]]] = []
    for _ in range(missing.MOST_TIMES + 2):
        drain()
        with installation.engine.begin() as conn:
            conn.execute(sql(conn, "UPDATE {schema}.runs SET queued_at = queued_at - interval '1 hour'"))
        seen.append(put_back())
        installation.redis.delete(list_key(installation.keys, "default", 0))
    assert seen == [[("gone", 1)]] * missing.MOST_TIMES + [[], []]
    installation.redis.incr(installation.keys.epoch)
    assert put_back() == [("gone", 1)], "a Redis that has lost data took it along itself"


def test_what_a_full_redis_refused_was_not_sent(
    own_redis: Server, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "EVERY_S", 0.0)
    installation = Installation(make_settings(redis_url=own_redis.url))
    client: Any = installation.redis
    stream = EventStream(client, installation.keys)
    stream.ensure_group()
    queued(installation, "gone")
    entries = stream.read()
    assert write(installation.engine, entries, installation.keyring) == 0
    stream.done(entries)
    search = MissingMessages(installation, client)
    client.config_set("maxmemory", 1)
    for _ in range(missing.MOST_TIMES + 1):
        with pytest.raises(RedisError):
            search.put_back(look(client, installation.keys))
    client.config_set("maxmemory", 0)
    search.put_back(look(client, installation.keys))
    assert [one.run_id for one in waiting(installation)] == ["gone"]
    client.close()


def test_a_backlog_is_left_alone_and_what_is_missing_before_it_is_found(
    installation: Installation, drain: Callable[[], None], put_back: Callable[[], list[tuple[str, int]]]
) -> None:
    queued(installation, "gone", OLD_S + 60)
    for n in range(5):
        queued(installation, f"waits-{n}", OLD_S - n, listed=True)
    drain()
    assert put_back() == [*((f"waits-{n}", 1) for n in range(5)), ("gone", 1)]


def test_each_priority_is_a_list_of_its_own(
    installation: Installation, drain: Callable[[], None], put_back: Callable[[], list[tuple[str, int]]]
) -> None:
    queued(installation, "urgent", OLD_S, priority=9)
    queued(installation, "waits", OLD_S + 60, listed=True)
    drain()
    assert put_back() == [("urgent", 1), ("waits", 1)]
    [payload] = installation.redis.lrange(list_key(installation.keys, "default", 9), 0, -1)
    assert StoredMessage.parse(payload).run_id == "urgent"


def test_a_claimed_run_is_left_to_its_lease(
    installation: Installation, drain: Callable[[], None], put_back: Callable[[], list[tuple[str, int]]]
) -> None:
    queued(installation, "reserved")
    queued(installation, "retried", attempt=2)
    claims = Claims(installation.redis, installation.keys, 20.0)
    for run_id in ("reserved", "retried"):
        claims.claim(run_id, 1, "w@x", utc_today().isoformat())
    drain()
    assert put_back() == []


def test_a_run_that_waits_for_its_eta_is_not_missing(
    installation: Installation, drain: Callable[[], None], put_back: Callable[[], list[tuple[str, int]]]
) -> None:
    queued(installation, "later", eta=(utc_now() + timedelta(hours=1)).isoformat())
    drain()
    assert put_back() == []


FOREIGN = [
    "no json",
    "[" * 100_000,
    json.dumps({"headers": {h.PUBLISHED: datetime.min.replace(tzinfo=UTC).timestamp()}}),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=["no json", "deep", "year 1"])
def test_a_stock_message_at_the_end_of_the_list_stops_nothing(
    installation: Installation, drain: Callable[[], None], foreign: str
) -> None:
    """It does not say when it was sent, so the lists are read."""
    queued(installation, "gone")
    queued(installation, "waits", listed=True)
    drain()
    installation.redis.rpush(list_key(installation.keys, "default", 0), foreign)
    search = MissingMessages(installation, installation.redis)
    search.put_back(look(installation.redis, installation.keys))
    assert installation.redis.rpop(list_key(installation.keys, "default", 0)) == foreign
    assert [one.run_id for one in waiting(installation)] == ["waits", "gone"]
