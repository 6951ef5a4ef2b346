"""Runs that had begun when both their worker and Redis's memory of them were lost: they are put back as lost."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from sqlalchemy import text

from beatline.clock import utc_now, utc_today
from beatline.engine.claim import Claims, Lease
from beatline.engine.messages import list_key
from beatline.engine.publish import publish_stored
from beatline.ledger import forgotten
from beatline.ledger.cancellations import Cancellations
from beatline.ledger.epochs import look
from beatline.ledger.expired import ExpiredLeases
from beatline.ledger.forgotten import ForgottenRuns
from beatline.ledger.states import EventKind
from beatline.ledger.stream import EventStream
from beatline.ledger.suspects import lost_suspects
from beatline.ledger.write import write
from support.ledger import accepted, event, message, run_row, tell, waiting

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.ledger.events import Event

OLD = 600.0


@pytest.fixture
def rounds(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> _Rounds:
    monkeypatch.setattr(forgotten, "EVERY_S", 0.0)
    return _Rounds(installation)


class _Rounds:
    """What a settled reconciler does of runs that had begun, and the recorder before it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._stream = EventStream(installation.redis, installation.keys)
        self._stream.ensure_group()
        self._forgotten = ForgottenRuns(installation, installation.redis)
        self._expired = ExpiredLeases(installation, installation.redis)

    def drain(self) -> None:
        while entries := self._stream.read():
            assert write(self.installation.engine, entries, self.installation.keyring) == 0
            self._stream.done(entries)

    def __call__(self) -> list[tuple[str, int]]:
        """One round; what lies in the queue `default` after it."""
        self._forgotten.find()
        server = look(self.installation.redis, self.installation.keys)
        self._expired.put_back(server, abandoned_only=False)
        return [(one.run_id, one.attempt) for one in waiting(self.installation)]

    def row(self, run_id: str) -> tuple[str, int]:
        with self.installation.engine.connect() as conn:
            row = run_row(conn, run_id)
        return row["state"], row["attempt"]

    def suspects(self) -> tuple[int, tuple[str, ...]]:
        with self.installation.engine.connect() as conn:
            found = lost_suspects(self.installation, conn)
        assert found.complete
        return found.count, found.examples


def old(kind: EventKind, run_id: str, **facts: Any) -> Event:
    return event(kind, run_id, at=utc_now().timestamp() - OLD, worker="w@x", fence=7, **facts)


def begun(rounds: _Rounds, run_id: str, *further: EventKind) -> None:
    """A run that PostgreSQL knows as begun long ago, or as what came of that; Redis knows nothing of it."""
    sent = accepted(run_id, at=utc_now().timestamp() - OLD - 1)
    tell(rounds.installation, [sent, *(old(kind, run_id) for kind in (EventKind.STARTED, *further))])
    rounds.drain()


@pytest.mark.parametrize("further", [(), (EventKind.RETRIED,), (EventKind.LOST,)], ids=["running", "retrying", "lost"])
def test_a_begun_run_that_nobody_remembers_is_put_back_once(rounds: _Rounds, further: tuple[EventKind, ...]) -> None:
    begun(rounds, "r1", *further)
    assert rounds.suspects() == (1, ("r1",))
    assert rounds() == [("r1", 2)]
    assert rounds() == [("r1", 2)], "before the recorder has read what was done"
    rounds.drain()
    assert rounds() == [("r1", 2)]
    assert rounds.suspects() == (0, ())
    assert rounds.row("r1") == ("queued", 2)
    Claims(rounds.installation.redis, rounds.installation.keys, 20.0).claim(
        "r1", 2, "w@x", utc_today().isoformat(), queue="default"
    )
    assert rounds() == [("r1", 2)]
    assert rounds.suspects() == (0, ())


def test_an_attempt_that_put_another_task_in_its_place_is_not_repeated(rounds: _Rounds) -> None:
    """A chain in there publishes the rest when its other parts have ended: until then no message names the run."""
    installation = rounds.installation
    client: Any = installation.redis
    begun(rounds, "r1", EventKind.REPLACED)
    assert rounds() == []
    assert client.zcard(installation.keys.leases) == 0

    claims = Claims(client, installation.keys, 20.0)
    begun(rounds, "restored", EventKind.REPLACED)
    assert isinstance(claims.claim("restored", 1, "w@x", utc_today().isoformat()), Lease)
    client.zadd(installation.keys.leases, {"r1": 1, "restored": 1})
    assert rounds() == [], "whatever gave them a lease"
    assert client.zcard(installation.keys.leases) == 0
    rounds.drain()
    assert (rounds.row("r1"), rounds.row("restored")) == (("retrying", 1), ("retrying", 1))

    heir = accepted("r1", attempt=2, at=utc_now().timestamp() - OLD / 2)
    tell(installation, [heir, event(EventKind.STARTED, "r1", attempt=2, at=utc_now().timestamp() - OLD / 3)])
    rounds.drain()
    assert rounds() == [("r1", 3)], "what was put there is a run like any other"


def test_an_expiry_ends_a_run_between_attempts_but_not_what_carries_it_on(rounds: _Rounds) -> None:
    installation = rounds.installation
    for run_id, kind in (("replaced", EventKind.REPLACED), ("retried", EventKind.RETRIED)):
        said = json.loads(message(run_id).payload)
        said["headers"]["ignore_result"] = True
        expires = (utc_now() - timedelta(minutes=1)).isoformat()
        sent = accepted(run_id, message=json.dumps(said), expires=expires, at=utc_now().timestamp() - OLD)
        tell(installation, [sent, old(EventKind.STARTED, run_id), old(kind, run_id)])
    rounds.drain()
    Cancellations(installation, installation.redis).carry_out("this Redis", final=True)
    assert (rounds.row("replaced"), rounds.row("retried")) == (("retrying", 1), ("cancelled", 1))


def test_what_stands_for_longer_than_redis_remembers_is_shown_and_not_repeated(rounds: _Rounds) -> None:
    """As what an older version left behind, weeks ago."""
    begun(rounds, "r1")
    with rounds.installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET changed_at = now() - interval '25 hours'"))
    assert rounds() == []
    assert rounds.suspects() == (1, ("r1",))


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def test_how_long_ago_a_run_began_is_not_said_by_the_clock_of_one_recorder(rounds: _Rounds, off: timedelta) -> None:
    begun(rounds, "long-ago")
    tell(rounds.installation, [accepted("just-now"), event(EventKind.STARTED, "just-now", worker="w@x", fence=8)])
    rounds.drain()
    with time_machine.travel(utc_now() + off):
        assert rounds() == [("long-ago", 2)]


def test_a_run_that_somebody_holds_or_that_waits_is_left_alone(rounds: _Rounds) -> None:
    installation = rounds.installation
    claims = Claims(installation.redis, installation.keys, 20.0)
    for run_id in ("held", "ended", "renewed", "waits", "closed"):
        begun(rounds, run_id, *([EventKind.RETRIED] if run_id in ("waits", "closed") else []))
    day = utc_today().isoformat()
    assert isinstance(claims.claim("held", 1, "w@x", day), Lease)
    ended = claims.claim("ended", 1, "w@x", day)
    assert isinstance(ended, Lease)
    claims.finish(ended, "ended", old(EventKind.SUCCEEDED, "ended").to_json())
    claims.renew([Lease("renewed", 1, 7, "w@x", day)])
    publish_stored(installation, [message("waits", attempt=2)])
    closed = claims.claim("closed", 1, "w@x", day)
    assert isinstance(closed, Lease)
    claims.finish(closed, "closed", old(EventKind.RETRIED, "closed").to_json())
    assert rounds() == [("waits", 2)]
    assert rounds.suspects() == (0, ())
    client: Any = installation.redis
    assert sorted(client.zrange(installation.keys.leases, 0, -1)) == ["held", "renewed"]


def test_a_record_without_its_lease_is_put_back_too(rounds: _Rounds) -> None:
    begun(rounds, "r1")
    claims = Claims(rounds.installation.redis, rounds.installation.keys, 20.0)
    assert isinstance(claims.claim("r1", 1, "w@x", utc_today().isoformat()), Lease)
    rounds.installation.redis.delete(rounds.installation.keys.leases)
    assert rounds() == [("r1", 2)]


def test_a_recorder_that_is_behind_waits_for_what_it_has_not_read(rounds: _Rounds) -> None:
    """Its end may be in there."""
    begun(rounds, "r1")
    client: Any = rounds.installation.redis
    seconds, _ = client.time()
    client.delete(rounds.installation.keys.events)
    client.xadd(rounds.installation.keys.events, {"e": "{}"}, id=f"{(seconds - int(OLD)) * 1000}-0")
    assert rounds() == []
    assert rounds.installation.redis.zcard(rounds.installation.keys.leases) == 0


def test_the_third_loss_counts_the_forgotten_ones(rounds: _Rounds) -> None:
    begun(rounds, "r1")
    for attempt in (1, 2):
        assert rounds() == [("r1", attempt + 1)]
        keys = rounds.installation.keys
        rounds.installation.redis.delete(keys.index("default"), list_key(keys, "default", 0))
        rounds.drain()
        tell(rounds.installation, [old(EventKind.STARTED, "r1", attempt=attempt + 1)])
        rounds.drain()
    assert rounds() == []
    assert rounds() == [], "it is buried in the second round, once all that was sent before is known"
    rounds.drain()
    assert rounds.row("r1") == ("dead", 3)
