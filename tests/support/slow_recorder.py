"""A recorder in slow motion: events are drained, and rounds of the reconciler made, when the test says so."""

from __future__ import annotations

from typing import Any

import pytest

from beatline.clock import utc_today
from beatline.engine.claim import Claims, Lease
from beatline.installation import Installation
from beatline.ledger import cancellations, forgotten, missing, reconcile
from beatline.ledger.epochs import Epochs, look
from beatline.ledger.events import Event
from beatline.ledger.reconcile import Reconciler
from beatline.ledger.states import EventKind
from beatline.ledger.stream import EventStream
from beatline.ledger.write import write
from support.ledger import event, run_row, waiting


class SlowClock:
    """A clock of the reconciler's that goes on by five seconds with each round: a full lease passes at once."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SlowRecorder:
    """One recorder, with the claims of the workers that it recovers from. An epoch has begun."""

    def __init__(self, installation: Installation, clock: SlowClock, *, settled: bool = True) -> None:
        self.installation = installation
        self.clock = clock
        self.claims = Claims(installation.redis, installation.keys, 20.0)
        self._stream = EventStream(installation.redis, installation.keys)
        self._stream.ensure_group()
        self._reconciler = Reconciler(installation, installation.redis)
        self._epochs = Epochs(installation.engine, installation.redis, installation.keys)
        self.begin_epoch(settled=settled)

    def begin_epoch(self, *, settled: bool) -> None:
        """Make the epoch that a recorder would; `settled` as if that were a lease ago."""
        redis, keys = self.installation.redis, self.installation.keys
        self._epochs.keep(look(redis, keys))
        if settled:
            redis.set(keys.settled, look(redis, keys).data_set)

    def drain(self) -> None:
        while entries := self._stream.read():
            assert write(self.installation.engine, entries, self.installation.keyring) == 0
            self._stream.done(entries)

    def round(self, times: int = 6) -> None:
        """As many rounds as make a lease, by the test's clock."""
        for _ in range(times):
            self.clock.now_s += 5.0
            self._reconciler.round(look(self.installation.redis, self.installation.keys))

    def lose(self, run_id: str, attempt: int, worker: str = "w@x", *, begun: bool = True) -> Lease:
        """A worker takes the run, begins it or not, and is never heard of again."""
        lease = self.claims.claim(run_id, attempt, worker, utc_today().isoformat(), queue="default")
        assert isinstance(lease, Lease)
        if begun:
            self.claims.begin(lease, _started(lease).to_json())
        client: Any = self.installation.redis
        client.zadd(self.installation.keys.leases, {run_id: 1})
        return lease

    def state(self, run_id: str) -> tuple[str, int]:
        with self.installation.engine.connect() as conn:
            row = run_row(conn, run_id)
        return row["state"], row["attempt"]

    def leases(self) -> list[str]:
        client: Any = self.installation.redis
        return list(client.zrange(self.installation.keys.leases, 0, -1))

    def queued(self) -> list[tuple[str, int]]:
        """What lies in the queue, taken out of it."""
        found = [(one.run_id, one.attempt) for one in waiting(self.installation)]
        client: Any = self.installation.redis
        client.delete(
            *(self.installation.keys.queue(f"default{part}") for part in ("", "\x06\x163", "\x06\x166", "\x06\x169"))
        )
        return found


def _started(lease: Lease) -> Event:
    return event(EventKind.STARTED, lease.run_id, attempt=lease.attempt, worker=lease.worker, fence=lease.fence)


def in_slow_motion(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> SlowRecorder:
    """A recorder whose reconciler goes by a clock of its own."""
    clock = SlowClock()
    for module in (reconcile, missing, forgotten, cancellations):
        monkeypatch.setattr(module, "monotonic_s", clock)
    return SlowRecorder(installation, clock)
