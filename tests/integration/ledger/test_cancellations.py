"""What a recorder does of the orders to cancel: all of them get their turn, and what it has done stands."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import time_machine
from redis.exceptions import RedisError

from beatline.clock import monotonic_s, utc_now, utc_today
from beatline.embedded.ports import free_port
from beatline.engine.claim import Claims, Lease
from beatline.installation import Installation
from beatline.ledger import cancellations
from beatline.ledger.cancel import cancel_run
from beatline.ledger.cancellations import Cancellations
from beatline.ledger.history import find_run
from beatline.ledger.intake import Entry
from beatline.ledger.states import EventKind
from beatline.ledger.write import write
from beatline.queues.pausing import pause
from support.apps import open_app
from support.ledger import accepted, event, rows
from support.servers import Server
from support.serving import MakeSettings

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # of redis-py, by Celery


@pytest.fixture
def away(make_settings: MakeSettings) -> Installation:
    """The same installation, for who does not reach Redis."""
    return Installation(make_settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"))


def queue(installation: Installation, *run_ids: str) -> None:
    entries = [Entry(f"{number}-0", accepted(one).to_json()) for number, one in enumerate(run_ids, 1)]
    write(installation.engine, entries, installation.keyring)


def state_of(installation: Installation, run_id: str) -> str:
    with installation.engine.connect() as conn:
        return find_run(conn, run_id).state


def test_runs_that_do_not_end_hide_none_behind_them(
    installation: Installation, app: Any, away: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellations, "PAGE", 2)
    monkeypatch.setattr(cancellations, "EVERY_S", 0.0)
    queue(installation, *"abcde")
    claims = Claims(installation.redis, installation.keys, lease_s=30)
    leases = [claims.claim(run_id, 1, "one@here", utc_today().isoformat()) for run_id in "abcd"]
    for run_id in "abcd":
        assert cancel_run(installation, run_id, who="ann@here", app=app).how == "told"
    assert cancel_run(away, "e", who="ann@here", app=app).how == "noted"
    at_work = Cancellations(installation, installation.redis)
    carry_out = partial(at_work.carry_out, "any", final=True)
    for _ in range(3):
        carry_out()
    assert [state_of(installation, run_id) for run_id in "ae"] == ["queued", "cancelled"]
    assert isinstance(leases[0], Lease)
    claims.finish(leases[0], "closed", event(EventKind.RETRIED, "a", fence=leases[0].fence).to_json())
    for _ in range(3):
        carry_out()
    assert state_of(installation, "a") == "cancelled", "those in front get their turn again"


def test_what_was_done_before_redis_failed_stands_and_is_told(
    installation: Installation, app: Any, away: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellations, "EVERY_S", 0.0)
    queue(installation, *"abc")
    for run_id in "abc":
        assert cancel_run(away, run_id, who="ann@here", app=app).how == "noted"
    installation.redis.set(installation.keys.run("b"), "no record", ex=60)
    at_work = Cancellations(installation, installation.redis)
    with pytest.raises(RedisError):
        at_work.carry_out("any", final=True)
    assert [state_of(installation, run_id) for run_id in "abc"] == ["cancelled", "queued", "queued"]
    assert app.AsyncResult("a").state == "REVOKED"
    installation.redis.delete(installation.keys.run("b"))
    at_work.carry_out("any", final=True)
    assert [state_of(installation, run_id) for run_id in "bc"] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def test_what_has_expired_is_not_said_by_the_clock_of_one_recorder(installation: Installation, off: timedelta) -> None:
    now = utc_now()
    for number, (run_id, left) in enumerate((("over", -30), ("stays", 30)), 1):
        said = accepted(run_id, expires=(now + timedelta(minutes=left)).isoformat())
        write(installation.engine, [Entry(f"{number}-0", said.to_json())], installation.keyring)
    with time_machine.travel(now + off):
        Cancellations(installation, installation.redis).carry_out("any", final=True)
    assert [state_of(installation, run_id) for run_id in ("over", "stays")] == ["cancelled", "queued"]


def test_an_order_is_not_forgotten_by_the_clock_of_one_recorder(installation: Installation, app: Any) -> None:
    queue(installation, "a")
    assert cancel_run(installation, "a", who="ann@here", app=app).how == "ended"
    with time_machine.travel(utc_now() + timedelta(days=3)):
        Cancellations(installation, installation.redis).carry_out("any", final=True)
    with installation.engine.connect() as conn:
        assert [row["run_id"] for row in rows(conn, "cancellations")] == ["a"]


@contextmanager
def frozen(installation: Installation) -> Generator[None]:
    pid = int(installation.redis.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_who_holds_a_lock_does_not_wait_for_a_frozen_redis(make_settings: MakeSettings, own_redis: Server) -> None:
    installation = Installation(make_settings(redis_url=own_redis.url, result_url=own_redis.url))
    queue(installation, "a")
    with open_app(installation.settings) as app, frozen(installation):
        began = monotonic_s()
        assert cancel_run(installation, "a", who="ann@here", app=app).how == "noted"
        assert not pause(installation, "default", who="ann@here").told
        assert monotonic_s() - began < 3.0, "both together"
    installation.redis.close()
