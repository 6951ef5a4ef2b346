"""A backlog is left alone whatever its length, and what is missing from the midst of it is found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from sqlalchemy import text

from beatline.clock import utc_now, utc_today
from beatline.engine.claim import Claims
from beatline.engine.messages import STEPS, list_key, parked_key
from beatline.engine.publish import publish_stored
from beatline.installation import Installation
from beatline.ledger import missing
from beatline.ledger.apply import message_binding
from beatline.ledger.epochs import look
from beatline.ledger.missing import MissingMessages
from beatline.ledger.store import insert_runs, mark_queued
from support.apps import open_app
from support.ledger import message, new_run, waiting
from support.slow_recorder import SlowClock

if TYPE_CHECKING:
    from support.servers import Server
    from support.serving import MakeSettings

Look = Callable[[], None]

_RUNS = """
    WITH made AS (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:times AS timestamptz[]), CAST(:sealed AS bytea[]))
            AS made (id, at, sealed)
    ), days AS (INSERT INTO beatline.run_days (id, day) SELECT id, :day FROM made)
    INSERT INTO beatline.runs (day, id, task, queue, state, progress, attempt, changed_at, priority, message,
        message_attempt, accepted_at, queued_at)
    SELECT :day, id, 'tests.work', 'default', 'queued', 11, 1, at, 0, sealed, 1, at, at FROM made
"""


@pytest.fixture
def search(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Look:
    """One look, as often as it is asked for; what it doubts is confirmed by the next."""
    monkeypatch.setattr(missing, "EVERY_S", 0.0)
    monkeypatch.setattr(missing, "CONFIRM_S", 0.0)
    return looking(installation)


def looking(installation: Installation) -> Look:
    """One that searches, and looks when it is called."""
    made = MissingMessages(installation, installation.redis)
    return lambda: made.put_back(look(installation.redis, installation.keys))


def submit(installation: Installation, *run_ids: str, age_s: float = 600.0) -> None:
    """Accept runs by their rows so long ago, and publish them now; the first becomes the oldest."""
    at = utc_now() - timedelta(seconds=age_s)
    runs = [new_run(one, accepted_at=at + timedelta(milliseconds=n)) for n, one in enumerate(run_ids)]
    with installation.engine.begin() as conn:
        insert_runs(conn, runs, installation.keyring)
        mark_queued(conn, [(utc_today(), one) for one in run_ids], at)
    for one in run_ids:
        sent = message(one)
        aged = json.loads(sent.payload)
        aged["headers"]["bl_published"] = at.timestamp()
        publish_stored(installation, [replace(sent, payload=json.dumps(aged))])


def indexed(installation: Installation) -> list[str]:
    client: Any = installation.redis
    return sorted(client.zrange(installation.keys.index("default"), 0, -1))


def listed(installation: Installation) -> list[str]:
    return [one.run_id for one in waiting(installation)]


def take(installation: Installation, run_id: str) -> str:
    """Take a message off its list, as a worker does that is killed before it claims it; the message."""
    client: Any = installation.redis
    key = list_key(installation.keys, "default", 0)
    found: list[str] = client.lrange(key, 0, -1)
    [payload] = [one for one in found if json.loads(one)["headers"]["id"] == run_id]
    assert client.lrem(key, 1, payload) == 1
    return payload


def test_what_is_published_is_in_the_index_until_it_is_claimed(installation: Installation, settings: Any) -> None:
    claims = Claims(installation.redis, installation.keys, 20.0)
    with open_app(settings) as app:
        _publish_in_each_way(app, installation)
        assert len(listed(installation)) == 4
    assert indexed(installation) == ["batch-0", "batch-1", "sent", "stored"]
    for run_id in ("sent", "stored", "batch-0"):
        claims.claim(run_id, 1, "w@x", utc_today().isoformat(), queue="default")
    assert indexed(installation) == ["batch-1"]
    claims.claim("batch-1", 1, "w@x", utc_today().isoformat(), queue="default")
    publish_stored(installation, [message("batch-1")])
    assert indexed(installation) == ["batch-1"]
    claims.claim("batch-1", 1, "other@x", utc_today().isoformat(), queue="default")
    assert indexed(installation) == [], "what is dropped waits no more either"


def _publish_in_each_way(app: Celery, installation: Installation) -> None:
    app.send_task("tests.work", task_id="sent", queue="default")
    publish_stored(installation, [message("stored")])
    with app.producer_pool.acquire() as pooled:
        producer: Any = pooled
        with producer.batch():
            for number in range(2):
                app.send_task("tests.work", task_id=f"batch-{number}", queue="default", producer=producer)


def test_a_purge_empties_what_is_parked_too_and_what_was_accepted_comes_back(
    installation: Installation, settings: Any, search: Look
) -> None:
    submit(installation, "a", "b")
    client: Any = installation.redis
    default = list_key(installation.keys, "default", 0)
    client.lmove(default, parked_key(default), "LEFT", "LEFT")
    with open_app(settings) as app:
        connection: Any = app.connection_for_write()
        with connection:
            assert connection.default_channel.queue_purge("default") == 2
    lists = [installation.keys.queue(f"default\x06\x16{step}" if step else "default") for step in STEPS]
    assert client.exists(installation.keys.index("default"), *lists, *(parked_key(one) for one in lists)) == 0
    search()
    assert sorted(listed(installation)) == ["a", "b"]


@pytest.mark.parametrize("deleted", ["the list", "the index"])
def test_a_deleted_key_loses_nothing_and_doubles_nothing(
    installation: Installation, search: Look, deleted: str
) -> None:
    odd = 'b "ü"'
    submit(installation, "a", odd)
    key = list_key(installation.keys, "default", 0) if deleted == "the list" else installation.keys.index("default")
    installation.redis.delete(key)
    for _ in range(3):
        search()
    assert sorted(listed(installation)) == ["a", odd]
    assert indexed(installation) == ["a", odd]


def test_what_was_taken_along_from_the_end_of_a_backlog_needs_no_reading(
    installation: Installation, search: Look
) -> None:
    submit(installation, "oldest", age_s=700.0)
    submit(installation, "a", "b", age_s=600.0)
    client: Any = installation.redis
    index = installation.keys.index("default")
    client.zadd(index, dict.fromkeys(("a", "b"), 1))
    search()
    take(installation, "oldest")
    search()
    assert listed(installation) == ["a", "b"], "a worker may be about to claim it"
    search()
    assert listed(installation) == ["a", "b", "oldest"]
    assert [client.zscore(index, run_id) for run_id in "ab"] == [1, 1], "reading notes what it sees"


def test_what_a_worker_claims_a_moment_later_is_not_sent_again(installation: Installation, search: Look) -> None:
    submit(installation, "a")
    take(installation, "a")
    search()
    Claims(installation.redis, installation.keys, 20.0).claim("a", 1, "w@x", utc_today().isoformat(), queue="default")
    search()
    assert listed(installation) == []


def test_messages_on_their_way_to_their_claim_do_not_have_the_lists_read(
    installation: Installation, search: Look
) -> None:
    """A queue whose workers are busy has some of them at every look, now more and now fewer."""
    submit(installation, "a", "b", "c")
    client: Any = installation.redis
    index = installation.keys.index("default")
    client.zadd(index, dict.fromkeys("abc", 1))
    take(installation, "b")
    for _ in range(missing.STEADY):
        payload = take(installation, "c")
        search()
        client.lpush(list_key(installation.keys, "default", 0), payload)
        search()
    assert [client.zscore(index, run_id) for run_id in "abc"] == [1, 1, 1], "reading notes what it sees"
    for _ in range(missing.STEADY):
        search()
    assert listed(installation) == ["a", "c", "b"], "what stays away was taken along"


def test_an_index_forgets_what_has_ended(installation: Installation, search: Look) -> None:
    """A message that reached its worker by another name of its queue is claimed, and leaves its entry behind."""
    submit(installation, "a")
    take(installation, "a")
    with installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET state = 'succeeded', ended_at = now()"))
    installation.redis.zadd(installation.keys.index("default"), {"a": 1})
    for _ in range(missing.STEADY):
        search()
    assert indexed(installation) == []
    assert listed(installation) == []


def commands(installation: Installation, search: Look) -> Counter[str]:
    """Which commands a Redis that nobody else uses is given meanwhile, and how often; those within scripts too."""

    def given() -> Counter[str]:
        client: Any = installation.redis
        said: dict[str, Any] = client.info("commandstats")
        return Counter({name.removeprefix("cmdstat_"): one["calls"] for name, one in said.items()})

    before = given()
    search()
    return given() - before


def test_the_lists_of_a_queue_are_read_once_a_minute_at_most(
    own_redis: Server, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs go on vanishing from the midst of a backlog and from its index, so that each look has a cause to read."""
    clock = SlowClock()
    monkeypatch.setattr(missing, "monotonic_s", clock)
    installation = Installation(make_settings(redis_url=own_redis.url))
    search = looking(installation)
    submit(installation, "oldest", "a", "b")
    read: list[bool] = []
    for gone, now_s in (("a", 0.0), ("b", 30.0), ("", 59.0), ("", 61.0)):
        if gone:
            take(installation, gone)
            installation.redis.zrem(installation.keys.index("default"), gone)
        clock.now_s = now_s
        read.append(commands(installation, search)["lrange"] > 0)
    assert read == [True, False, False, True]
    assert listed(installation) == ["oldest", "a", "b"]
    installation.redis.close()


def test_five_hundred_runs_are_asked_about_in_as_many_calls_as_one(
    own_redis: Server, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "EVERY_S", 0.0)
    installation = Installation(make_settings(redis_url=own_redis.url))
    search = looking(installation)
    given: list[Counter[str]] = []
    for runs in (["run-0"], [f"run-{number}" for number in range(1, 500)]):
        submit(installation, *runs)
        given.append(commands(installation, search))
    assert given[0] == given[1]
    assert given[1]["zmscore"] == 1
    installation.redis.close()


@pytest.mark.proof
@pytest.mark.timeout(120)
def test_an_hours_backlog_of_100000_is_left_alone_and_the_one_that_is_missing_is_found(
    installation: Installation, search: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "PAGES", 50)
    count = 100_000
    _submit_backlog(installation, count, utc_now() - timedelta(hours=1))
    key = list_key(installation.keys, "default", 0)
    for _ in range(6):  # the whole backlog, and more
        search()
    assert installation.redis.llen(key) == count, "each could be sent again, and none was"

    assert installation.redis.lrem(key, 1, installation.redis.lindex(key, count - 1 - 60_000)) == 1
    monkeypatch.setattr(missing, "PAGES", 1)  # nothing else would find it as fast as its list does
    for _ in range(missing.STEADY + 1):
        search()
    assert json.loads(installation.redis.lindex(key, 0))["headers"]["id"] == "run-60000"
    assert installation.redis.llen(key) == count
    assert installation.redis.zcard(installation.keys.index("default")) == count


def _submit_backlog(installation: Installation, count: int, first: datetime) -> None:
    """Accept and publish so many runs, one every 10 ms, as their senders did: each has its message, which opens."""
    client: Any = installation.redis
    seal, said = installation.keyring.encrypt, json.loads(message("run").payload)
    for start in range(0, count, 5000):
        times = {f"run-{n}": first + n * timedelta(milliseconds=10) for n in range(start, start + 5000)}
        payloads: dict[str, str] = {}
        for run_id, at in times.items():
            said["headers"] |= {"id": run_id, "bl_published": at.timestamp()}
            payloads[run_id] = json.dumps(said)
        sealed = [seal(one.encode(), bound_to=message_binding(run_id)) for run_id, one in payloads.items()]
        rows = {"ids": list(times), "times": list(times.values()), "sealed": sealed, "day": utc_today()}
        with installation.engine.begin() as conn:
            conn.execute(text(_RUNS), rows)
        with client.pipeline(transaction=False) as pipe:
            pipe.lpush(list_key(installation.keys, "default", 0), *payloads.values())
            pipe.zadd(installation.keys.index("default"), {one: at.timestamp() * 1000 for one, at in times.items()})
            pipe.execute()
    with installation.engine.begin() as conn:
        conn.execute(text("ANALYZE beatline.runs"))
