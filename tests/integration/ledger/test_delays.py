"""Delayed runs wait in PostgreSQL, are sent when they are due, moved and ended; by senders in slow motion."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError
from sqlalchemy import text

from beatline.clock import utc_now, utc_today
from beatline.engine import headers as h
from beatline.engine.claim import Claims, Lease
from beatline.engine.messages import StoredMessage, delayed_event
from beatline.errors import ConflictError, NotFoundError
from beatline.installation import Installation
from beatline.ledger import delays, partitions
from beatline.ledger.delays import Sender, hold, move
from beatline.ledger.epochs import Epochs, look
from beatline.ledger.events import Event
from beatline.ledger.expired import ExpiredLeases
from beatline.ledger.relay import Relay
from beatline.ledger.retention import prune
from beatline.ledger.states import EventKind
from beatline.ledger.store import insert_runs
from beatline.ledger.stream import EventStream
from beatline.ledger.write import write
from beatline.secrets import Keyring, new_key
from support import keys
from support.apps import open_app
from support.ledger import delay_a_crowd, event, message, new_run, rows, run_row, tell, waiting
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

HOUR = timedelta(hours=1)


class _Ledger:
    """A recorder that does what the test says, when it says so."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.sender = Sender(installation, threading.Event())
        self._stream = EventStream(installation.redis, installation.keys)
        self._stream.ensure_group()
        Epochs(installation.engine, installation.redis, installation.keys).keep(
            look(installation.redis, installation.keys)
        )

    def drain(self) -> None:
        while entries := self._stream.read():
            assert write(self.installation.engine, entries, self.installation.keyring) == 0
            self._stream.done(entries)

    def delay(self, *run_ids: str, attempt: int = 1, due: datetime | None = None, **facts: Any) -> None:
        tell(self.installation, [delayed(run_id, due or utc_now() + HOUR, attempt, **facts) for run_id in run_ids])
        self.drain()

    def make_due(self, run_id: str, ago_s: float = 0.0) -> None:
        move(self.installation, run_id, utc_now() - timedelta(seconds=ago_s), who="test")

    def row(self, run_id: str) -> Any:
        with self.installation.engine.connect() as conn:
            return run_row(conn, run_id)

    def queued(self) -> list[StoredMessage]:
        return waiting(self.installation)


def delayed(run_id: str, due: datetime, attempt: int = 1, **facts: Any) -> Event:
    said = json.loads(message(run_id, attempt=attempt).payload)
    said["headers"] |= {"eta": due.isoformat(), h.STORED: 0, **facts}
    return delayed_event(said, "default", json.dumps(said))


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(lease_s=20.0)


@pytest.fixture
def ledger(installation: Installation) -> _Ledger:
    return _Ledger(installation)


def test_a_delayed_run_waits_and_is_sent_when_it_is_due(ledger: _Ledger) -> None:
    due = utc_now() + HOUR
    ledger.delay("r1", due=due)
    assert ledger.sender.round() == 0.5, "what is moved to now is seen soon"
    row = ledger.row("r1")
    assert (row["state"], row["attempt"], row["progress"], row["eta"]) == ("delayed", 1, 10, due)
    assert ledger.queued() == []

    before = utc_now()
    ledger.make_due("r1")
    assert 0 < ledger.sender.round() <= 0.5
    [sent] = ledger.queued()
    head = json.loads(sent.payload)["headers"]
    assert (sent.run_id, sent.attempt, head[h.STORED]) == ("r1", 1, 1)
    assert head[h.PUBLISHED] >= before.timestamp(), "so that its age is not doubted"
    assert head[h.EPOCH] == look(ledger.installation.redis, ledger.installation.keys).epoch
    assert head["eta"] is None, "no worker whose clock is behind waits for it"
    assert ledger.row("r1")["state"] == "queued"
    ledger.drain()
    assert ledger.row("r1")["state"] == "queued"
    ledger.sender.round()
    assert len(ledger.queued()) == 1


def test_the_sender_sleeps_until_the_next_is_due(ledger: _Ledger) -> None:
    ledger.delay("r1")
    ledger.make_due("r1", ago_s=-0.3)
    assert 0.0 < ledger.sender.round() <= 0.3
    assert ledger.queued() == []


def test_the_next_attempt_is_delayed_and_an_older_one_changes_nothing(ledger: _Ledger) -> None:
    tell(ledger.installation, [event(EventKind.STARTED, "r1"), event(EventKind.RETRIED, "r1")])
    ledger.delay("r1", attempt=2)
    assert (ledger.row("r1")["state"], ledger.row("r1")["attempt"]) == ("delayed", 2)
    ledger.delay("r1", attempt=1, due=utc_now() - HOUR)
    assert ledger.sender.round() == 0.5
    ledger.make_due("r1")
    ledger.sender.round()
    assert [(one.run_id, one.attempt) for one in ledger.queued()] == [("r1", 2)]


@pytest.mark.parametrize("until", ["accepted", "queued", "running"])
def test_an_event_that_comes_again_brings_nothing_back(ledger: _Ledger, until: str) -> None:
    said = delayed("r1", utc_now() - timedelta(seconds=1))
    tell(ledger.installation, [said])
    ledger.drain()
    if until == "accepted":  # its sender died before it had published
        with ledger.installation.engine.begin() as conn:
            conn.execute(text("UPDATE beatline.runs SET state = 'accepted'"))
    else:
        ledger.sender.round()
        ledger.drain()
    if until == "running":
        tell(ledger.installation, [event(EventKind.STARTED, "r1")])
    tell(ledger.installation, [said])
    ledger.drain()
    assert ledger.row("r1")["state"] == until


def test_a_run_that_is_accepted_with_a_far_eta_is_delayed(ledger: _Ledger) -> None:
    near, far = (new_run(f"r-{s}", eta=utc_now() + timedelta(seconds=s)) for s in (30, 90))
    with ledger.installation.engine.begin() as conn:
        assert insert_runs(conn, [near, far], ledger.installation.keyring) == {"r-30", "r-90"}
    assert (ledger.row("r-30")["state"], ledger.row("r-90")["state"]) == ("accepted", "delayed")


def test_many_senders_send_each_run_once(ledger: _Ledger) -> None:
    ids = [f"r{n}" for n in range(1200)]
    ledger.delay(*ids, due=utc_now() - timedelta(seconds=1))
    others = [Sender(ledger.installation, threading.Event()) for _ in range(3)]
    threads = [threading.Thread(target=one.round) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.sender.round()
    assert sorted(one.run_id for one in ledger.queued()) == sorted(ids)


def test_a_row_that_is_held_is_passed_over(ledger: _Ledger) -> None:
    ledger.delay("r1", "r2", due=utc_now() - timedelta(seconds=1))
    with ledger.installation.engine.begin() as conn:
        assert hold(conn, "r1").attempt == 1
        assert ledger.sender.round() == pytest.approx(0.05)
        assert [one.run_id for one in ledger.queued()] == ["r2"]
        conn.execute(text("UPDATE beatline.runs SET state = 'cancelled', ended_at = now(), progress = 19 "
                          "WHERE id = 'r1'"))  # fmt: skip
    ledger.sender.round()
    assert [one.run_id for one in ledger.queued()] == ["r2"]


def test_moving_is_audited_and_only_for_what_is_delayed(ledger: _Ledger) -> None:
    due, later = utc_now() + HOUR, utc_now() + 300 * 24 * HOUR
    ledger.delay("run-one", due=due)
    moved = move(ledger.installation, "run-o", later, who="ann")
    assert (moved.run_id, moved.before, moved.due) == ("run-one", due, later)
    assert ledger.row("run-one")["eta"] == later
    with ledger.installation.engine.connect() as conn:
        [noted] = rows(conn, "audit")
    assert (noted["who"], noted["action"], noted["kind"], noted["name"]) == ("ann", "move", "run", "run-one")
    assert (noted["before"], noted["after"]) == ({"eta": due.isoformat()}, {"eta": later.isoformat()})
    with pytest.raises(NotFoundError):
        move(ledger.installation, "nobody", later, who="ann")
    ledger.make_due("run-one")
    sealed, keyring = bytes(ledger.row("run-one")["message"]), ledger.installation.keyring
    head = json.loads(keyring.decrypt(sealed, bound_to="run:run-one"))["headers"]
    assert datetime.fromisoformat(head["eta"]) <= utc_now(), "who publishes it again does not wait for the time before"
    ledger.sender.round()
    with pytest.raises(ConflictError, match="run-one is queued and not delayed"):
        move(ledger.installation, "run-one", later, who="ann")


def test_a_run_that_was_moved_is_not_moved_back_by_its_event(ledger: _Ledger) -> None:
    said = delayed("r1", utc_now() + HOUR)
    tell(ledger.installation, [said])
    ledger.drain()
    later = utc_now() + 2 * HOUR
    move(ledger.installation, "r1", later, who="ann")
    tell(ledger.installation, [said])
    ledger.drain()
    assert (ledger.row("r1")["state"], ledger.row("r1")["eta"]) == ("delayed", later)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery
def test_a_run_whose_expiry_has_passed_is_cancelled_and_told_once_the_others_are_sent(
    ledger: _Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Telling stops where it fails: Redis may be away, and others become due meanwhile."""
    redis: Any = ledger.installation.redis
    for ago_s, run_id in ((3, "bad"), (2, "kept")):
        ledger.delay(run_id, expires=(utc_now() - timedelta(seconds=1)).isoformat())
        ledger.make_due(run_id, ago_s)
    ledger.delay("good", due=utc_now() - timedelta(seconds=1), expires=(utc_now() + HOUR).isoformat())
    with open_app(ledger.installation.settings) as app:
        redis.hset(app.backend.get_key_for_task("bad"), "no", "result")
        ledger.sender.round()
        row = ledger.row("kept")
        assert (row["state"], row["reason"], row["attempt"]) == ("cancelled", "expired", 1)
        assert [one.run_id for one in ledger.queued()] == ["good"]
        assert app.AsyncResult("kept").state == "PENDING"
        ledger.sender.round()
        assert app.AsyncResult("kept").state == "REVOKED"
        assert caplog.text.count("cancelled_run_not_told") == 1
        redis.delete(*(app.backend.get_key_for_task(run_id) for run_id in ("bad", "kept")))


def test_a_message_that_does_not_open_holds_up_nobody(ledger: _Ledger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.delay("sealed", due=utc_now() - HOUR)
    ledger.delay("r1", due=utc_now() - timedelta(seconds=1))
    foreign = Keyring.parse(new_key(), source="another installation").encrypt(b"x", bound_to="run:sealed")
    with ledger.installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET message = :m WHERE id = 'sealed'"), {"m": foreign})
    ledger.sender.round()
    assert ledger.sender.round() == 0.5
    assert [one.run_id for one in ledger.queued()] == ["r1"]
    assert ledger.row("sealed")["state"] == "delayed"
    assert "message_unreadable" in caplog.text


def test_while_redis_is_away_nothing_leaves_its_state(ledger: _Ledger, make_settings: MakeSettings) -> None:
    away = Installation(make_settings(redis_url="redis://127.0.0.1:1/0"))
    ledger.delay("r1", due=utc_now() - timedelta(seconds=1))
    with pytest.raises(RedisError):
        Sender(away, threading.Event()).round()
    assert ledger.row("r1")["state"] == "delayed"
    ledger.sender.round()
    assert [one.run_id for one in ledger.queued()] == ["r1"]


def test_a_sender_outlives_an_absent_redis_and_says_so_once(
    ledger: _Ledger, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delays, "AWAY_S", 0.01)
    stop = threading.Event()
    ledger.delay("r1", due=utc_now() - timedelta(seconds=1))
    sender = Sender(Installation(make_settings(redis_url="redis://127.0.0.1:1/0")), stop)
    looks: list[float] = []
    go_on = sender.round

    def counted() -> float:
        looks.append(0.0)
        return go_on()

    monkeypatch.setattr(sender, "round", counted)
    running = threading.Thread(target=sender.run)
    running.start()
    wait_until(lambda: len(looks) >= 3)
    stop.set()
    running.join(10)
    assert not running.is_alive()
    assert caplog.text.count("delays_wait") == 1


def test_a_redis_that_was_wiped_is_sent_to_at_once(ledger: _Ledger, settings: Settings) -> None:
    ledger.delay("r1", due=utc_now() - timedelta(seconds=1))
    keys.remove(settings.redis_url, settings.key_prefix)
    installation = ledger.installation
    Epochs(installation.engine, installation.redis, installation.keys).keep(look(installation.redis, installation.keys))
    server = look(installation.redis, installation.keys)
    assert server.settled != server.data_set, "what may have been there before waits for the workers"
    ledger.sender.round()
    assert [one.run_id for one in ledger.queued()] == ["r1"]


def test_what_a_sender_left_behind_is_published_by_the_relay(ledger: _Ledger) -> None:
    ledger.delay("r1", due=utc_now() - timedelta(seconds=1))
    with ledger.installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET state = 'accepted', accepted_at = now() - interval '1 hour'"))
    redis, keys_ = ledger.installation.redis, ledger.installation.keys
    redis.set(keys_.settled, look(redis, keys_).data_set)
    relay = Relay(ledger.installation, redis)
    wait_until(lambda: relay.round() and ledger.queued())
    assert [(one.run_id, one.attempt) for one in ledger.queued()] == [("r1", 1)]


def test_a_lost_attempt_does_not_hurry_its_retry(ledger: _Ledger) -> None:
    installation = ledger.installation
    claims = Claims(installation.redis, installation.keys, 20.0)
    lease = claims.claim("r1", 1, "w@x", utc_today().isoformat())
    assert isinstance(lease, Lease)
    claims.begin(lease, event(EventKind.STARTED, "r1", worker="w@x", fence=lease.fence).to_json())
    ledger.delay("r1", attempt=2)
    installation.redis.zadd(installation.keys.leases, {"r1": 1})
    ExpiredLeases(installation, installation.redis).put_back(
        look(installation.redis, installation.keys), abandoned_only=False
    )
    ledger.drain()
    assert (ledger.row("r1")["state"], ledger.row("r1")["attempt"]) == ("delayed", 2)
    assert ledger.queued() == []
    assert installation.redis.zcard(installation.keys.leases) == 0
    with installation.engine.connect() as conn:
        assert [(one["attempt"], one["outcome"]) for one in rows(conn, "attempts")] == [(1, "lost")]
    ledger.make_due("r1")
    ledger.sender.round()
    assert isinstance(claims.claim("r1", 2, "w@x", utc_today().isoformat()), Lease)


def test_retention_keeps_what_waits_for_next_year(ledger: _Ledger) -> None:
    long_ago = utc_today() - timedelta(days=40)
    engine = ledger.installation.engine
    with engine.begin() as conn:
        partitions.ensure(conn, long_ago)
        run = new_run("r1", day=long_ago, eta=utc_now() + timedelta(days=365), accepted_at=utc_now())
        insert_runs(conn, [run, new_run("gone", day=long_ago)], ledger.installation.keyring)
        conn.execute(text("UPDATE beatline.runs SET state = 'failed', ended_at = now() WHERE id = 'gone'"))
    assert long_ago in prune(engine, 30, utc_today()).days
    with engine.connect() as conn:
        assert [row["id"] for row in rows(conn, "runs")] == ["r1"]
    ledger.make_due("r1")
    ledger.sender.round()
    assert [one.run_id for one in ledger.queued()] == ["r1"]
    assert (ledger.row("r1")["day"], ledger.row("r1")["state"]) == (long_ago, "queued")


def test_runs_whose_cancelling_waits_for_redis_are_not_sent_and_hide_nobody(
    ledger: _Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delays, "PAGE", 16)
    ledger.delay(*(f"r{n:02}" for n in range(16)), due=utc_now() - timedelta(seconds=2))
    ledger.delay("behind", due=utc_now() - timedelta(seconds=1))
    with ledger.installation.engine.begin() as conn:
        conn.execute(text("INSERT INTO beatline.cancellations (run_id, at, who, reason, hard) SELECT id, now(), 'ann', "
                          "'cancelled by ann', false FROM beatline.runs WHERE id <> 'behind'"))  # fmt: skip
    sender = Sender(ledger.installation, threading.Event())
    assert sender.round() == 0.5, "and keep nobody busy"
    assert [one.run_id for one in ledger.queued()] == ["behind"]
    assert ledger.row("r00")["state"] == "delayed"


@pytest.mark.proof
def test_a_due_run_is_found_at_once_among_a_hundred_thousand(ledger: _Ledger) -> None:
    crowd = 100_000
    delay_a_crowd(ledger.installation, crowd)
    ledger.delay(*(f"r{n}" for n in range(100)))
    with ledger.installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET eta = now() WHERE id LIKE 'r%'"))
        found = conn.execute(text("EXPLAIN SELECT 1 FROM beatline.runs WHERE state = 'delayed' AND eta <= now() "
                                  "ORDER BY eta LIMIT 500")).scalars()  # fmt: skip
        assert "Seq Scan on runs_2" not in "\n".join(found)
    before = datetime.now(UTC)
    ledger.sender.round()
    assert (datetime.now(UTC) - before).total_seconds() < 1.0
    assert len(ledger.queued()) == 100
    with ledger.installation.engine.connect() as conn:
        left = conn.execute(text("SELECT count(*) FROM beatline.runs WHERE state = 'delayed'")).scalar()
    assert left == crowd
