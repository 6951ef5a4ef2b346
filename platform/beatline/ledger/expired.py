"""Runs whose lease expired: back into their queue as the next attempt, or dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError
from sqlalchemy import Connection

from beatline.engine.claim import PARKS, Claims
from beatline.engine.messages import StoredMessage, list_key, next_attempt, now_ms, parks
from beatline.engine.obituary import Obituary
from beatline.errors import SecretError
from beatline.failpoints import reach
from beatline.ledger.apply import message_binding
from beatline.ledger.commit import commit
from beatline.ledger.database import open_engine, sql
from beatline.ledger.epochs import Server
from beatline.ledger.events import FIELD, Event
from beatline.ledger.lost import SILENT, Dead, LostAttempt, decide_lost
from beatline.ledger.states import ENDED, EventKind, RunState
from beatline.logs import get_logger

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

PAGE: Final = 100
PAGES: Final = 10
TOLD_AFTER_MS: Final = 60_000
"""A lease that expired so long ago and cannot be settled is spoken of."""

_RUNS: Final = """
    SELECT r.id, r.day, r.task, r.queue, r.state, r.attempt, r.message, r.message_attempt, c.reason AS cancelled
    FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id
    LEFT JOIN {schema}.cancellations c ON c.run_id = r.id WHERE d.id = ANY(:ids)
"""
_ATTEMPTS: Final = """
    SELECT a.run_id, a.attempt, a.outcome, a.worker, a.reason, a.started_at
    FROM {schema}.run_days d JOIN {schema}.attempts a ON a.day = d.day AND a.run_id = d.id WHERE d.id = ANY(:ids)
    ORDER BY a.run_id, a.attempt
"""
_WAITING: Final = frozenset({RunState.ACCEPTED, RunState.DELAYED, RunState.QUEUED})
"""States of a run whose latest attempt nobody has begun."""
_RECORD: Final = ("state", "attempt", "fence", "worker", "begun", "lost_reason", PARKS)

log = get_logger(__name__)


class _WaitError(Exception):
    """It cannot be settled in this round; the text says why."""


@dataclass(slots=True)
class _Past:
    """What PostgreSQL knows of a run, and its attempts by number."""

    day: date
    task: str
    queue: str
    state: str
    attempt: int
    message: bytes | None
    message_attempt: int | None
    cancelled: str | None = None
    attempts: dict[int, Any] = field(default_factory=dict[int, Any])


@dataclass(frozen=True, slots=True)
class _Lease:
    """An expired lease and the record of its run; `fence` is None if Redis has forgotten the record."""

    run_id: str
    expired_ms: int
    state: str | None
    attempt: int
    fence: int | None
    worker: str | None
    begun: bool
    why: str
    parks: bool


class ExpiredLeases:
    """Puts back the runs whose lease expired, a page at a time."""

    def __init__(self, installation: Installation, redis: Redis) -> None:
        self._installation = installation
        self._engine = open_engine(installation.settings)
        self._redis: Any = redis
        self._keys = installation.keys
        self._claims = Claims(redis, installation.keys, installation.settings.lease_s)
        self._obituary = Obituary(installation)
        self._told: set[str] = set()
        self._burials: dict[tuple[str, int], int] = {}
        self._oldest_event_ms = 0.0

    def put_back(self, server: Server, *, abandoned_only: bool) -> None:
        """Settle what can be settled; the rest is looked at again in the next round, and holds up nothing.

        Abandoned leases were given up by their holders, so they need no proof of silence.
        """
        until_ms = 0 if abandoned_only else server.now_ms
        waiting: set[str] = set()
        if self._burials:
            first = self._redis.xrange(self._keys.events, count=1)
            self._oldest_event_ms = int(first[0][0].partition("-")[0]) if first else float("inf")
        for _ in range(PAGES):
            found = self._page(until_ms, len(waiting))
            leases = [lease for one in found if (lease := self._read(*one)) is not None]
            waiting |= {run_id for run_id, *_ in found} - {lease.run_id for lease in leases}
            if leases:
                with self._engine.connect() as conn:
                    pasts = _pasts(conn, [lease.run_id for lease in leases])
                waiting |= {lease.run_id for lease in leases if not self._settled(lease, pasts, server)}
            if len(found) < PAGE:
                break
        self._told &= waiting
        self._burials = {run: since_ms for run, since_ms in self._burials.items() if run[0] in waiting}

    def _page(self, until_ms: int, offset: int) -> list[tuple[str, float, Any]]:
        """Run ids, when their leases expired, and their records as they are: an exception where Redis cannot read one."""
        found = self._redis.zrangebyscore(self._keys.leases, "-inf", until_ms, start=offset, num=PAGE, withscores=True)
        with self._redis.pipeline(transaction=False) as pipe:
            for run_id, _ in found:
                pipe.hmget(self._keys.run(run_id), *_RECORD)
            records = pipe.execute(raise_on_error=False)
        return [(run_id, score, record) for (run_id, score), record in zip(found, records, strict=True)]

    def _read(self, run_id: str, expired_ms: float, record: Any) -> _Lease | None:
        try:
            return _lease(run_id, expired_ms, record)
        except (ValueError, ArithmeticError, ResponseError) as exc:
            self._tell(run_id, f"its record in Redis cannot be read: {exc}")
            return None

    def _tell(self, run_id: str, reason: str) -> None:
        """Speak of a run that waits, once."""
        if run_id not in self._told:
            self._told.add(run_id)
            log.error("lost_run_waits", run_id=run_id, reason=reason)

    def _settled(self, lease: _Lease, pasts: Mapping[str, _Past], server: Server) -> bool:
        try:
            self._settle(lease, pasts.get(lease.run_id), server)
        except (_WaitError, SecretError) as exc:
            late = 0 < lease.expired_ms < server.now_ms - TOLD_AFTER_MS or isinstance(exc, SecretError)
            if late:
                self._tell(lease.run_id, str(exc))
            return False
        return True

    def _settle(self, lease: _Lease, past: _Past | None, server: Server) -> None:
        if lease.fence is not None and lease.state != "leased":
            self._finish(lease, [], None)
            return
        if past is None:
            raise _WaitError("PostgreSQL does not know the run yet")
        attempt = lease.attempt or past.attempt
        if past.state in ENDED:
            if past.attempt < attempt:
                raise _WaitError(f"PostgreSQL knows attempt {past.attempt} only, and this is {attempt}")
            self._finish(lease, [], None)
            return
        if past.attempt == attempt and _was_replaced(past):
            # What it put in its place carries the run on, perhaps without a message until its other parts have ended.
            self._finish(lease, [], None)
            return
        current, before = _current(lease, past, attempt), _lost_before(past, attempt)
        _check_complete(past, attempt)
        kind = EventKind.LOST if current.begun else EventKind.RETURNED
        lost = _event(kind, lease.run_id, past, current, server, current.why or None)
        stands = attempt < past.attempt and past.state in _WAITING
        if stands or (past.state == RunState.DELAYED and lease.fence is None):
            # It had asked for its retry: that is not to be hurried, nor buried with it, and needs no second message.
            # Should its own have vanished, it is missing like any other.
            self._finish(lease, [lost] if stands else [], None, delayed=True)
            return
        plain = self._message(lease.run_id, past)
        if past.cancelled is not None:
            ended = _event(EventKind.CANCELLED, lease.run_id, past, current, server, past.cancelled)
            if self._finish(lease, [ended], None) and plain is not None:
                self._obituary.tell_cancelled(plain, past.cancelled)
            return
        fate = decide_lost(before, current, parks=lease.parks or parks(plain))
        again = fate if isinstance(fate, Dead) else self._next(plain, fate.attempt, server)
        if isinstance(again, Dead):
            self._bury(lease, past, _event(EventKind.DEAD, lease.run_id, past, current, server, again.reason), plain)
            return
        if self._finish(lease, [lost, again.queued_event()], again):
            reach("reconcile.put_back")
            why = current.why or "stopped"
            log.warning("run_put_back", run_id=lease.run_id, task=past.task, attempt=again.attempt, reason=why)

    def _bury(self, lease: _Lease, past: _Past, dead: Event, plain: bytes | None) -> None:
        if not self._is_heard_out(lease):
            raise _WaitError("what its worker sent last, a retry perhaps, may not have reached PostgreSQL yet")
        if not self._finish(lease, [dead], None):
            return
        log.error("run_dead", run_id=lease.run_id, task=past.task, reason=dead.reason)
        if plain is not None:
            try:
                commit(self._installation, [dead], lambda: True)  # who is told may look it up
            finally:
                self._obituary.tell(plain, dead.reason or "")

    def _is_heard_out(self, lease: _Lease) -> bool:
        """Whether PostgreSQL has all that was sent before the run was to be buried, and had it when the run was read."""
        burial = (lease.run_id, lease.attempt)
        if burial in self._burials:
            return self._burials[burial] < self._oldest_event_ms
        seconds, micros = self._redis.time()
        self._burials[burial] = seconds * 1000 + micros // 1000
        return False

    def _message(self, run_id: str, past: _Past) -> bytes | None:
        if past.message is None:
            return None
        return self._installation.keyring.decrypt(past.message, bound_to=message_binding(run_id))

    def _next(self, plain: bytes | None, attempt: int, server: Server) -> StoredMessage | Dead:
        if plain is None:
            return Dead("its worker died, and its message was too large to be kept for another attempt")
        try:
            return next_attempt(plain, attempt, server.epoch or 0)
        except ValueError as exc:
            return Dead(f"its worker died, and its message cannot be sent again: {exc}")

    def _finish(
        self, lease: _Lease, events: Sequence[Event], again: StoredMessage | None, *, delayed: bool = False
    ) -> bool:
        said = [event.to_json() for event in events]
        low_first = self._installation.settings.priority_order == "low_first"
        queue = list_key(self._keys, again.queue, again.priority, low_first=low_first) if again else ""
        reach("reconcile.decided")
        if lease.fence is None:
            self._finish_forgotten(lease.run_id, said, queue, again)
            return True
        return self._claims.return_run(
            lease.run_id,
            lease.fence,
            events=said,
            queue_list=queue or self._keys.queue("default"),  # a key is wanted where no message is sent
            message=again.payload if again else "",
            expired_only=True,
            delayed=delayed,
        )

    def _finish_forgotten(self, run_id: str, events: Sequence[str], queue: str, again: StoredMessage | None) -> None:
        # Records live for a day: no recorder ran for longer. There is no fence to check, and none is needed, because
        # the claim of the next attempt waits for a worker that still renews this one.
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(self._keys.leases, run_id)
            for event in events:
                pipe.xadd(self._keys.events, {FIELD: event})
            if again:
                pipe.lpush(queue, again.payload)
                pipe.zadd(self._keys.index(again.queue), {run_id: now_ms()})
            pipe.execute()


def _lease(run_id: str, expired_ms: float, record: Any) -> _Lease:
    if isinstance(record, ResponseError):
        raise record
    state, attempt, fence, worker, begun, why, parked = record
    return _Lease(
        run_id=run_id,
        expired_ms=int(expired_ms),
        state=state,
        attempt=int(attempt or 0),
        fence=int(fence) if fence else None,
        worker=worker,
        begun=begun == "1",
        why=SILENT if why is None else why,
        parks=fence is not None and fence == parked,
    )


def _pasts(conn: Connection, ids: list[str]) -> dict[str, _Past]:
    pasts = {
        row.id: _Past(
            row.day, row.task, row.queue, row.state, row.attempt,
            None if row.message is None else bytes(row.message), row.message_attempt, row.cancelled,
        )
        for row in conn.execute(sql(conn, _RUNS), {"ids": ids})
    }  # fmt: skip
    for row in conn.execute(sql(conn, _ATTEMPTS), {"ids": ids}):
        if row.run_id in pasts:
            pasts[row.run_id].attempts[row.attempt] = row
    return pasts


def _was_replaced(past: _Past) -> bool:
    known = past.attempts.get(past.attempt)
    return known is not None and known.outcome == "replaced"


def _check_complete(past: _Past, attempt: int) -> None:
    """Only if every attempt since the stored message was lost is that message still the run's."""
    for number in range(past.message_attempt or 1, attempt):
        known = past.attempts.get(number)
        if known is None or known.outcome not in ("lost", "returned"):
            raise _WaitError(f"what followed attempt {number} has not reached PostgreSQL yet")


def _lost_before(past: _Past, attempt: int) -> list[LostAttempt]:
    # A worker that stops in good order gives up its runs and says no reason: those do not count.
    return [
        LostAttempt(row.attempt, row.outcome == "lost", row.worker, row.reason)
        for row in past.attempts.values()
        if row.attempt < attempt and row.outcome in ("lost", "returned") and row.reason
    ]


def _current(lease: _Lease, past: _Past, attempt: int) -> LostAttempt:
    known = past.attempts.get(attempt)
    begun = lease.begun or (known is not None and known.started_at is not None)
    return LostAttempt(attempt, begun, lease.worker or (known.worker if known is not None else None), lease.why)


def _event(kind: EventKind, run_id: str, past: _Past, lost: LostAttempt, server: Server, reason: str | None) -> Event:
    return Event(
        kind=kind,
        run_id=run_id,
        attempt=lost.attempt,
        day=past.day.isoformat(),
        at=server.now_ms / 1000,
        task=past.task,
        queue=past.queue,
        worker=lost.worker,
        reason=reason,
    )
