"""Keeps the leases of one worker process: renews them, counts begun attempts, and sends every end until Redis takes it.

One native thread with its own connection, so that a task which holds the worker's main thread does not cost it its
leases. A short run costs two round trips: its begin waits up to BEGIN_LINGER_S to travel with its end.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, Literal

from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.engine.claim import Claimed, Claims, Lease
from beatline.installation import connect_redis
from beatline.ledger.events import Event, late
from beatline.logs import get_logger
from beatline.settings import Settings

BEGIN_LINGER_S: Final = 0.05
RETRY_S: Final = 0.5
HUNG_GRACE_S: Final = 10.0
"""How long past its hard limit a run is still thought to end by itself."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended: `state` as in Claims.finish, the event that says it, and when an untold attempt began."""

    lease: Lease
    state: Literal["ended", "closed"]
    event: Event
    began: float | None = None


@dataclass(slots=True)
class _Held:
    """A lease we hold, and how far its run has come here. `untold` is a begin that Redis has not been told of."""

    lease: Lease
    handed_over: bool = False
    accepted: bool = False
    untold: Event | None = None
    tell_at: float = 0.0
    hung_at: float = float("inf")


class LeaseKeeper:
    """Every lease this process holds, and the only place that ends one. Thread-safe.

    A lease that Redis says is another's is dropped: its task goes on, but its end will be refused. `on_renewed` is
    called when leases were renewed and a task runs under one of them.
    """

    on_renewed: Callable[[], None] | None = None

    def __init__(self, settings: Settings) -> None:
        # A connection of its own saves each call the way through a pool.
        self._claims = Claims(connect_redis(settings.redis_url, single_connection_client=True), settings.keys,
                              settings.lease_s)  # fmt: skip
        self._upkeep = Claims(connect_redis(settings.redis_url), settings.keys, settings.lease_s)
        self._renew_s = settings.lease_renew_s
        self._lock = threading.RLock()  # a signal handler may end a request in the middle of us
        self._wake = threading.Event()
        self._held: dict[int, _Held] = {}
        self._ends: deque[End] = deque()
        self._sleeps_until = 0.0
        self._away = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to renew. Called in the process that receives messages."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="beatline-leases", daemon=True)
            self._thread.start()
            atexit.register(self._stop_at_exit, os.getpid())  # a cold shutdown sends no signal of Celery's

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what is still to be sent, give up what is still held, and renew no more. Stopping twice is once.

        The pool has ended, so what it was given and did not end will not end. Its message may be in the queue again, or
        with another worker that dropped it: only the reconciler can tell, so it is left to it at once.
        """
        if self._stopping:
            return
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        give_up = monotonic_s() + timeout_s
        for lease in self.held():
            self.abandon(lease, "", begun=False)
        while self._ends and monotonic_s() < give_up:
            if not self._once():
                threading.Event().wait(RETRY_S)
        for end in self._ends:
            log.error("end_not_sent", run_id=end.lease.run_id, attempt=end.lease.attempt, end=end.event.to_json())
        for claims in (self._claims, self._upkeep):
            claims.close()

    def claim(
        self, run_id: str, attempt: int, worker: str, day: str, epoch: int, token: str, accepted: str = ""
    ) -> Claimed:
        """As Claims.claim; a lease that is won is kept from here on. Raises redis.RedisError."""
        claimed = self._claims.claim(run_id, attempt, worker, day, epoch, token, accepted)
        if isinstance(claimed, Lease):
            with self._lock:
                self._held[claimed.fence] = _Held(claimed)
        return claimed

    def hand_over(self, lease: Lease) -> None:
        """The pool has been given the run."""
        with self._lock:
            if lease.fence in self._held:
                self._held[lease.fence].handed_over = True

    def begin(self, lease: Lease, started: Event, limit_s: float | None) -> None:
        """The pool has accepted the run; told to Redis at once if it lasts, with its end if it is short.

        Past `limit_s` and a grace its lease is renewed no more: it hangs.
        """
        with self._lock:
            held = self._held.setdefault(lease.fence, _Held(lease))
            held.handed_over = held.accepted = True
            held.untold, held.tell_at = started, monotonic_s() + BEGIN_LINGER_S
            if limit_s:
                held.hung_at = monotonic_s() + limit_s + HUNG_GRACE_S
            too_late = self._sleeps_until > held.tell_at
        if too_late:
            self._wake.set()

    def finish(self, end: End) -> bool:
        """End an attempt. False: refused. While Redis does not answer the end is kept and sent again, and counts."""
        with self._lock:
            held = self._held.pop(end.lease.fence, None)
        if held is not None and held.untold is not None:
            end = replace(end, began=held.untold.at)
        try:
            return self._send(self._claims, end)
        except RedisError as exc:
            log.warning("end_kept", run_id=end.lease.run_id, error=str(exc))
            self._ends.append(end)
            return True

    def abandon(self, lease: Lease, reason: str, *, begun: bool = True) -> None:
        """The attempt will not end, and its process knows: let the lease expire now. If Redis is away, silence does it."""
        with self._lock:
            held = self._held.pop(lease.fence, None)
        try:
            if held is not None and held.untold is not None:
                self._claims.begin(lease, held.untold.to_json())
            self._claims.abandon(lease, reason, begun=begun)
        except RedisError as exc:
            log.warning("lease_left_to_expire", run_id=lease.run_id, error=str(exc))

    def give_back(self, lease: Lease, events: list[str], queue_list: str, message: str) -> bool:
        """End this attempt and queue the next one with `message`. Raises redis.RedisError."""
        with self._lock:
            held = self._held.pop(lease.fence, None)
        return self._claims.return_run(
            lease.run_id,
            lease.fence,
            events=[*([held.untold.to_json()] if held and held.untold else []), *events],
            queue_list=queue_list,
            message=message,
            expired_only=False,
        )

    def forget_waiting(self, in_pool: Collection[str] | None) -> None:
        """Renew no more what will not run here: what the pool was not given, or, `in_pool` being the runs that a flushed
        pool still has, what it has thrown away. Their leases expire by silence, and the reconciler sends them again.
        """
        with self._lock:
            for fence, held in list(self._held.items()):
                stays = held.handed_over if in_pool is None else held.accepted or held.lease.run_id in in_pool
                if not stays:
                    del self._held[fence]

    def holds(self, lease: Lease) -> bool:
        """Whether this lease is still kept here."""
        with self._lock:
            return lease.fence in self._held

    def held(self) -> tuple[Lease, ...]:
        """The leases this process holds and renews now."""
        now = monotonic_s()
        with self._lock:
            return tuple(held.lease for held in self._held.values() if now < held.hung_at)

    def _send(self, claims: Claims, end: End) -> bool:
        taken = claims.finish(end.lease, end.state, end.event.to_json(began=end.began))
        if not taken:
            claims.tell(late(end.event).to_json())
            log.warning("end_refused", run_id=end.lease.run_id, attempt=end.lease.attempt, fence=end.lease.fence)
        return taken

    def _run(self) -> None:
        next_renewal = monotonic_s() + self._renew_s
        while not self._stopping:
            with self._lock:
                begins = (held.tell_at for held in self._held.values() if held.untold is not None)
                self._sleeps_until = min(next_renewal, min(begins, default=next_renewal))
            self._wake.wait(max(0.0, self._sleeps_until - monotonic_s()))
            self._wake.clear()
            renew = monotonic_s() >= next_renewal
            if renew:
                next_renewal = monotonic_s() + self._renew_s
            if not self._once(renew=renew):
                threading.Event().wait(RETRY_S)  # not `_wake`: every begin sets it

    def _once(self, *, renew: bool = False) -> bool:
        """Do what is due; renewing comes first. False: Redis does not answer."""
        try:
            if renew:
                self._renew()
            self._tell_begun()
            while self._ends:
                self._send(self._upkeep, self._ends[0])
                self._ends.popleft()
        except RedisError as exc:
            if not self._away:
                log.warning("redis_away", error=str(exc), then="keeps leases and ends, and tries again")
            self._away = True
            return False
        if self._away:
            log.info("redis_back")
        self._away = False
        return True

    def _tell_begun(self) -> None:
        now = monotonic_s()
        with self._lock:
            due = [held for held in self._held.values() if held.untold is not None and held.tell_at <= now]
        for held in due:
            started = held.untold
            if started is None or not self.holds(held.lease):
                continue  # ended meanwhile, and took its begin along
            self._upkeep.begin(held.lease, started.to_json())
            # Only now: an end that overtakes this call takes the begin along, and told twice is told once.
            held.untold = None

    def _renew(self) -> None:
        gone = self._upkeep.renew(self.held())
        if self.on_renewed is not None and self._at_work():
            self.on_renewed()
        if not gone:
            return
        with self._lock:
            for fence in [fence for fence, held in self._held.items() if held.lease.fence in gone]:
                lease = self._held.pop(fence).lease
                log.warning("lease_lost", run_id=lease.run_id, attempt=lease.attempt)

    def hung(self) -> int:
        """How many runs here are past their hard limit and its grace, and still hold their slots."""
        now = monotonic_s()
        with self._lock:
            return sum(held.accepted and now >= held.hung_at for held in self._held.values())

    def _at_work(self) -> bool:
        now = monotonic_s()
        with self._lock:
            return any(held.accepted and now < held.hung_at for held in self._held.values())

    def _stop_at_exit(self, pid: int) -> None:
        if os.getpid() == pid:
            self.stop(timeout_s=2.0)
