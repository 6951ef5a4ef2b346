"""Keeps the leases of one worker process: renews them, counts begun attempts, and sends every end until Redis takes it.

After that an end is kept until PostgreSQL has it (see `kept`): a Redis that lost data is told it again.

One native thread with its own connection, on gevent too, so that a task which holds the worker's main thread does not
cost it its leases. A short run costs two round trips: its begin waits up to BEGIN_LINGER_S to travel with its end.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.engine.claim import Claimed, Claims, Lease
from beatline.engine.doubt import Vouched
from beatline.engine.held import End, Held
from beatline.engine.kept import KeptEnd, KeptEnds, parse_id
from beatline.engine.server import Server
from beatline.engine.standstill import ON_PREFORK, Standstill
from beatline.failpoints import reach
from beatline.installation import connect_redis
from beatline.ledger.events import Event, late
from beatline.logs import get_logger
from beatline.native import Bell, native_lock, start_native
from beatline.settings import Settings

BEGIN_LINGER_S: Final = 0.05
RETRY_S: Final = 0.5
AGAIN: Final = 200
"""How many ends are sent again in one round trip; a renewal that comes due goes between two."""
HUNG_GRACE_S: Final = 10.0
"""How long past its hard limit a run is still thought to end by itself."""

log = get_logger(__name__)


class LeaseKeeper:
    """Every lease this process holds, and the only place that ends one. Thread-safe.

    A lease that Redis says is another's is dropped: its task goes on, but its end will be refused. `on_renewed` is
    called when leases were renewed and a task runs under one of them, `on_cancelled` with the orders to cancel what is held
    here, by fence, again and again. `kept` are the ends that PostgreSQL may not have yet. While it is `closing`, nothing is
    to be claimed any more: its process is about to begin anew.
    """

    closing = False
    on_renewed: Callable[[], None] | None = None
    on_cancelled: Callable[[Mapping[int, str]], None] | None = None

    def __init__(self, settings: Settings) -> None:
        # A connection of its own saves each call the way through a pool.
        server = Server()
        self._claims = Claims(
            connect_redis(settings.redis_url, single_connection_client=True, redis_connect_func=server.seen),
            settings.keys, settings.lease_s, server,
        )  # fmt: skip
        # For the thread that renews, and for all others beside it: on gevent a connection belongs to one thread.
        self._upkeep = Claims(connect_redis(settings.redis_url), settings.keys, settings.lease_s)
        self._beside = Claims(connect_redis(settings.redis_url), settings.keys, settings.lease_s)
        self._renew_s = settings.lease_renew_s
        self._lock = native_lock()  # reentrant: a signal handler may end a request in the middle of us
        self._wake, self._stopped = Bell(), Bell()
        self._held: dict[int, Held] = {}
        self._ends: deque[End] = deque()
        self._ending: dict[int, Lease] = {}  # whose end is on its way: on a half-open connection it takes a while
        self._ended: deque[Event] = deque(maxlen=4)  # the last ones: suspects, where leases lapsed
        self._standstill = Standstill(settings.lease_s)
        self.kept = KeptEnds()
        self._next_renewal = 0.0  # the first is due at once: what this Redis is must be known before an end goes there
        self._sleeps_until = 0.0
        self._away = False
        self._stopping = False
        self._started = False

    def start(self) -> None:
        """Begin to renew. Called in the process that receives messages."""
        if not self._started:
            self._started = True
            start_native(self._run, "beatline-leases")
            atexit.register(self._stop_at_exit, os.getpid())  # a cold shutdown sends no signal of Celery's

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what is still to be sent, give up what is still held, and renew no more. Stopping twice is once.

        The pool has ended, so what it was given and did not end will not end. Its message may be in the queue again, or
        with another worker that dropped it: only the reconciler can tell, so it is left to it at once.
        """
        if self._stopping:
            return
        self._stopping = True
        self._wake.ring()
        if self._started:
            self._stopped.wait(timeout_s)
        give_up = monotonic_s() + timeout_s
        for lease in self.held():
            self.abandon(lease, "", begun=False)
        self._next_renewal = give_up
        while (self._ends or len(self.kept)) and monotonic_s() < give_up:
            if self._once(renew=True) and not self._ends:
                break
            threading.Event().wait(RETRY_S)
        for end in self._ends:
            log.error("end_not_sent", run_id=end.lease.run_id, attempt=end.lease.attempt, end=end.event.to_json())
        for claims in (self._claims, self._upkeep, self._beside):
            claims.close()

    def claim(
        self,
        run_id: str,
        attempt: int,
        worker: str,
        day: str,
        epoch: int,
        token: str,
        accepted: str = "",
        *,
        sent_ms: int | None = None,
        vouched: Vouched | None = None,
        queue: str = "",
    ) -> Claimed:
        """As Claims.claim; a lease that is won is kept from here on. Raises redis.RedisError."""
        known = self.kept.seen
        claimed = self._claims.claim(
            run_id, attempt, worker, day, epoch, token, accepted,
            sent_ms=sent_ms, vouched=vouched, known_epoch=known.epoch if known else 0, queue=queue,
        )  # fmt: skip
        if isinstance(claimed, Lease):
            with self._lock:
                self._held[claimed.fence] = Held(claimed)
        return claimed

    def park_if_lost(self, lease: Lease) -> None:
        """Tell the reconciler not to repeat this attempt; the message says it only if its sender knew the task."""
        with self._lock:
            self._held.setdefault(lease.fence, Held(lease)).parks = True
        try:
            self._beside.park_if_lost(lease)
        except RedisError as exc:
            log.warning("on_lost_not_noted", run_id=lease.run_id, error=str(exc), then="it is repeated if it is lost")

    def hand_over(self, lease: Lease) -> None:
        """The pool has been given the run."""
        with self._lock:
            if lease.fence in self._held:
                self._held[lease.fence].handed_over = True

    def begin(self, lease: Lease, started: Event, limit_s: float | None, *, at_once: bool = False) -> None:
        """The pool has accepted the run; told to Redis soon if it lasts, with its end if it is short, or `at_once`.

        Past `limit_s` and a grace its lease is renewed no more: it hangs.
        """
        with self._lock:
            held = self._held.setdefault(lease.fence, Held(lease))
            held.handed_over = held.accepted = True
            held.task = started.task
            held.started, held.untold, held.tell_at = started, started, monotonic_s() + BEGIN_LINGER_S
            if limit_s:
                held.hung_at = monotonic_s() + limit_s + HUNG_GRACE_S
            too_late = self._sleeps_until > held.tell_at
        if at_once:
            with suppress(RedisError):  # it is told again, as any other
                self._claims.begin(lease, started.to_json())
                held.untold = None
        if too_late:
            self._wake.ring()

    def rest(self, lease: Lease) -> None:
        """The run has ended, and its lease is held and renewed until `finish`."""
        with self._lock:
            held = self._held.setdefault(lease.fence, Held(lease))
            held.handed_over = held.accepted = held.rests = True
            held.hung_at = float("inf")

    def confirm(self, leases: Sequence[Lease]) -> frozenset[int]:
        """Renew leases now, and return the fences of those that have passed to another. Raises redis.RedisError."""
        return self._beside.renew(leases).gone

    def finish(self, end: End) -> bool:
        """End an attempt. False: refused. While Redis does not answer the end is kept and sent again, and counts."""
        with self._lock:
            held = self._held.pop(end.lease.fence, None)
            if held is not None:
                self._ending[end.lease.fence] = end.lease
        self._ended.append(end.event)
        if held is not None and held.untold is not None:
            end = replace(end, began=held.untold.at)
        try:
            return self._send(self._claims, end)
        except RedisError as exc:
            log.warning("end_kept", run_id=end.lease.run_id, error=str(exc))
            self._ends.append(end)
            return True
        except BaseException:
            self._forget(end)  # nobody sends it again, so the lease must lapse
            raise

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

    def give_back(
        self, lease: Lease, events: list[str], queue_list: str, message: str, *, delayed: bool = False
    ) -> bool:
        """End this attempt and queue the next one with `message`, or none if it is `delayed`. Raises redis.RedisError."""
        with self._lock:
            held = self._held.pop(lease.fence, None)
        return self._claims.return_run(
            lease.run_id,
            lease.fence,
            events=[*([held.untold.to_json()] if held and held.untold else []), *events],
            queue_list=queue_list,
            message=message,
            expired_only=False,
            delayed=delayed,
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
        said, generation = end.event.to_json(began=end.began), self.kept.generation
        taken = None if end.refused else claims.finish(end.lease, end.state, said)
        if taken is None:
            claims.tell(late(end.event).to_json())
            log.warning("end_refused", run_id=end.lease.run_id, attempt=end.lease.attempt, fence=end.lease.fence)
        else:
            self.kept.keep(KeptEnd(end.lease, end.state, said, parse_id(taken)), generation)
        self._forget(end)
        return taken is not None

    def _forget(self, end: End) -> None:
        with self._lock:
            self._ending.pop(end.lease.fence, None)

    def _run(self) -> None:
        while not self._stopping:
            with self._lock:
                begins = (held.tell_at for held in self._held.values() if held.untold is not None)
                due = 0.0 if self.kept.to_send else self._next_renewal
                self._sleeps_until = min(due, min(begins, default=due))
            self._wake.wait(max(0.0, self._sleeps_until - monotonic_s()))
            renew = monotonic_s() >= self._next_renewal
            if renew:
                self._next_renewal = monotonic_s() + self._renew_s
            if not self._once(renew=renew):
                threading.Event().wait(RETRY_S)  # not `_wake`: every begin rings it
                self._next_renewal = 0.0  # what Redis still has is to be known as soon as it answers
        self._upkeep.close()  # what is left to do is done by who stops us, over a connection of its own
        self._stopped.ring()

    def _once(self, *, renew: bool = False) -> bool:
        """Do what is due; renewing comes first. False: Redis does not answer."""
        try:
            if renew:
                self._renew()
                self._standstill.renewed(self.running(), self._ended)
            self._tell_begun()
            self._send_kept()
            self._send_again()
        except RedisError as exc:
            if not self._away:
                log.warning("redis_away", error=str(exc), then="keeps leases and ends, and tries again")
            self._away = True
            self._standstill.away()
            return False
        except Exception:
            log.exception("leases_not_kept", then="tries again: without this thread every lease here would lapse")
            return False
        if self._away:
            log.info("redis_back")
        self._away = False
        return True

    def _send_kept(self) -> None:
        """Send the ends that Redis has not taken yet. Each is out of the row while it is sent, for two may do so at a stop."""
        while self._ends:
            with suppress(IndexError):
                end = self._ends.popleft()
                try:
                    self._send(self._upkeep, end)
                except BaseException:
                    self._ends.appendleft(end)
                    raise

    def _send_again(self) -> None:
        """Send the ends that Redis may have lost, until the next renewal is due."""
        while batch := self.kept.take(AGAIN):
            generation = self.kept.generation
            try:
                ids = self._upkeep.finish_again(batch)
            except BaseException:
                self.kept.put_back(batch)
                raise
            for end, stream_id in zip(batch, ids, strict=True):
                if stream_id is not None:
                    self.kept.keep(replace(end, stream_id=parse_id(stream_id)), generation)
            if monotonic_s() >= self._next_renewal:
                return

    def _tell_begun(self) -> None:
        now = monotonic_s()
        with self._lock:
            due = [held for held in self._held.values() if held.untold is not None and held.tell_at <= now]
        for held in due:
            started = held.untold
            if started is None or not self.holds(held.lease):
                continue  # ended meanwhile, and took its begin along
            self._upkeep.begin(held.lease, started.to_json())
            reach("lease.told_begun")
            # Only now: an end that overtakes this call takes the begin along, and told twice is told once.
            held.untold = None

    def _renew(self) -> None:
        with self._lock:
            ending = dict(self._ending)
            begun = {fence for fence, one in self._held.items() if one.accepted} | ending.keys()
            parks = {fence for fence, one in self._held.items() if one.parks}
        held = (*self.held(), *ending.values())
        if not held and not len(self.kept) and self.kept.seen is not None:
            return
        newest = self.kept.newest
        gone, seen, cancelled = self._upkeep.renew(held, begun=begun, parks=parks)
        if self.kept.see(seen, newest):
            with self._lock:
                for one in self._held.values():
                    one.untold = None if one.rests else one.started  # told, but perhaps not drained from what was lost
            if self.kept.to_send:
                log.info("ends_sent_again", count=self.kept.to_send, reason="Redis may have lost them")
        if self.on_renewed is not None and self._at_work():
            self.on_renewed()
        if cancelled and self.on_cancelled is not None:
            self.on_cancelled(cancelled)
        if not gone:
            return
        with self._lock:
            all_lost = [self._held.pop(fence) for fence in gone if fence in self._held]
        for lost in all_lost:
            why = {"task": lost.task, "then": "its end will be refused", "why": ON_PREFORK} if lost.accepted else {}
            log.warning("lease_lost", run_id=lost.lease.run_id, attempt=lost.lease.attempt, **why)

    def running(self, *, hung: bool | None = None) -> tuple[str, ...]:
        """The runs that hold slots here, as task and run id: those past their hard limit and its grace, the others, or
        (None) all."""
        now = monotonic_s()
        with self._lock:
            slots = [held for held in self._held.values() if held.accepted and not held.rests]
        return tuple(
            f"{held.task} {held.lease.run_id}" for held in slots if hung is None or (now >= held.hung_at) is hung
        )

    def give_up_waiting(self) -> None:
        """Let the leases of runs that no pool has begun expire now: this worker will not begin them."""
        with self._lock:
            waiting = [held.lease for held in self._held.values() if not held.accepted]
        for lease in waiting:
            self.abandon(lease, "", begun=False)

    def _at_work(self) -> bool:
        now = monotonic_s()
        with self._lock:
            return any(held.accepted and not held.rests and now < held.hung_at for held in self._held.values())

    def _stop_at_exit(self, pid: int) -> None:
        if os.getpid() == pid:
            self.stop(timeout_s=2.0)
