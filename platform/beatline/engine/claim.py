"""The scripts around an attempt, each one round trip and atomic: claim, renew, begin, finish, abandon, return,
cancel.

A lease is a score in a sorted set, in the Redis server's clock; the record of a run is a hash that outlives it by a day.
Every call names the run and the fence it was given: who no longer holds the lease changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

from beatline.engine.doubt import CLOCKS_MS, DOUBTED_AGE_MS, Vouched
from beatline.engine.kept import KeptEnd, Seen, parse_id
from beatline.engine.messages import index_of
from beatline.engine.server import Server
from beatline.installation import RedisClient
from beatline.ledger.events import FIELD
from beatline.names import Keys

RECORD_LIFE_S: Final = 24 * 3600
PARKS: Final = "parks"
"""The field of a run's record with the fence of an attempt that is not to be repeated, if it is lost after it began."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to execute one attempt of a run now."""

    run_id: str
    attempt: int
    fence: int
    worker: str
    day: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """The message asks for an attempt that is not newer than the one on record, which `stands` as leased, ended, closed,
    returned, dead or cancelled; or its run was `cancelled`, by this order, before the attempt, and `untold` is whether
    who waits for it has to be told."""

    stands: str
    cancelled: str = ""
    untold: bool = False


@dataclass(frozen=True, slots=True)
class Doubted:
    """Redis has no record of the run, and may have had one: PostgreSQL has to be asked, in this `epoch`.

    So has all that was sent before `before_ms`. With `hold_s` it has been asked, and whoever held the run before Redis
    lost data may come back for so long.
    """

    epoch: int
    before_ms: int = 0
    hold_s: float = 0.0


Claimed = Lease | Dropped | Doubted | None
"""None: a newer attempt of a run whose older one is still leased; its message belongs back into the queue."""


class Renewed(NamedTuple):
    """What a renewal brought home: the fences of leases that are no longer ours, what it saw of Redis, and the
    orders to cancel, by the fence of the lease."""

    gone: frozenset[int]
    seen: Seen
    cancelled: Mapping[int, str]


@cache
def script_source(name: str) -> str:
    """The text of a script of this package."""
    return (files("beatline.engine") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


class Claims:
    """Claims, leases and ends of runs in one Redis.

    `lease_s` is how long a lease holds without being renewed. Raises redis.RedisError where Redis does not answer.
    """

    def __init__(self, redis: RedisClient, keys: Keys, lease_s: float, server: Server | None = None) -> None:
        self._redis, self._keys = redis, keys
        self._server = server or Server()
        self._lease_ms = int(lease_s * 1000)
        self._call: dict[str, Any] = {
            name: redis.register_script(script_source(name))
            for name in ("claim", "renew", "begin", "finish", "abandon", "return_run", "cancel")
        }

    def claim(
        self,
        run_id: str,
        attempt: int,
        worker: str,
        day: str,
        epoch: int = 0,
        token: str = "",
        accepted: str = "",
        *,
        sent_ms: int | None = None,
        vouched: Vouched | None = None,
        known_epoch: int = 0,
        queue: str = "",
    ) -> Claimed:
        """Claim an attempt for one delivery of its message, named by `token`: claiming twice with it is claiming once.

        `accepted` is appended to the ledger's stream if nothing is known of the run yet. A message with `sent_ms` is
        doubted if Redis's memory cannot vouch for it (see doubt.py), unless PostgreSQL `vouched` for it. `epoch` is its
        sender's, `known_epoch` the caller's own: a Redis that knows none begins above both. From
        now on the message is not in the index of its `queue`.
        """
        keys = self._keys
        answer = self._call["claim"](
            [keys.run(run_id), keys.leases, keys.epoch, keys.fence, keys.events, keys.since, keys.index(queue)],
            [
                run_id, attempt, worker, self._lease_ms, day, epoch, RECORD_LIFE_S, accepted, token or uuid4().hex,
                "" if sent_ms is None else sent_ms, DOUBTED_AGE_MS, CLOCKS_MS,
                vouched.epoch if vouched else 0, "1" if vouched and vouched.running else "0", self._server.run_id,
                known_epoch,
            ],
        )  # fmt: skip
        verdict = _text(answer[0])
        if verdict == "run":
            return Lease(run_id, attempt, int(answer[1]), worker, _text(answer[2]))
        if verdict == "ask":
            return Doubted(int(answer[1]), before_ms=int(answer[2]))
        if verdict == "wait":
            return Doubted(int(answer[1]), hold_s=int(answer[2]) / 1000)
        if verdict == "cancelled":
            return Dropped(verdict, _text(answer[1]), untold=_text(answer[2]) != "1")
        return Dropped(_text(answer[1])) if verdict == "drop" else None

    def renew(
        self, leases: Sequence[Lease], *, begun: Collection[int] | None = None, parks: Collection[int] = ()
    ) -> Renewed:
        """Renew leases, none as well, and say what this Redis is and how far it has been drained.

        What Redis has forgotten of a lease is written again: whether it has `begun` and `parks` its run when it is lost,
        by fence; None: all have begun.
        """
        keys = self._keys
        args: list[Any] = [self._lease_ms, RECORD_LIFE_S]
        for lease in leases:
            has_begun = begun is None or lease.fence in begun
            args += (lease.run_id, lease.fence, lease.attempt, lease.worker, lease.day, int(has_begun))
            args += (int(lease.fence in parks),)
        runs = (keys.run(lease.run_id) for lease in leases)
        gone, *seen, orders = self._call["renew"]([keys.leases, keys.epoch, keys.since, keys.events, *runs], args)
        epoch, began, server, first, last = map(_text, seen)
        return Renewed(
            frozenset(int(fence) for fence in gone),
            Seen(
                epoch=int(epoch) if epoch.isdecimal() else 0,
                began=began,
                server=server,
                first=parse_id(first) if first else None,
                last=parse_id(last),
            ),
            {int(fence): _text(order) for fence, order in zip(orders[::2], orders[1::2], strict=True)},
        )

    def park_if_lost(self, lease: Lease) -> None:
        """Note on the run's record that a loss of this attempt, once it began, is not to be followed by another."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._keys.run(lease.run_id), PARKS, lease.fence)
            pipe.expire(self._keys.run(lease.run_id), RECORD_LIFE_S)
            pipe.execute()

    def begin(self, lease: Lease, started: str) -> bool:
        """Count the attempt as begun. False: the lease is no longer ours."""
        return bool(self._call["begin"]([self._keys.run(lease.run_id), self._keys.events], [lease.fence, started]))

    def finish(self, lease: Lease, state: Literal["ended", "closed"], end: str) -> str | None:
        """End the attempt: *ended* is the end of the run, *closed* means that another attempt follows.

        The stream id of its event; None if the end came too late and was refused.
        """
        taken = self._finish(lease, state, end, "", None)
        return None if taken is None else _text(taken)

    def finish_again(self, ends: Sequence[KeptEnd]) -> list[str | None]:
        """Send ends that were taken before once more, in one round trip: the stream ids of their events.

        None: it adds nothing, because Redis has forgotten with it what followed the attempt.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for end in ends:
                self._finish(end.lease, end.state, end.said, "{}-{}".format(*end.stream_id), pipe)
            return [None if taken is None else _text(taken) for taken in pipe.execute()]

    def _finish(self, lease: Lease, state: str, said: str, before: str, client: Any) -> Any:
        keys = self._keys
        return self._call["finish"](
            [keys.run(lease.run_id), keys.leases, keys.events],
            [lease.run_id, lease.fence, lease.attempt, state, lease.day, RECORD_LIFE_S, said, before],
            client=client,
        )

    def close(self) -> None:
        """Close the connections; a later call opens one again."""
        self._redis.close()

    def tell(self, event: str) -> None:
        """Append an event to the ledger's stream."""
        self._redis.xadd(self._keys.events, {FIELD: event})

    def abandon(self, lease: Lease, reason: str, *, begun: bool) -> bool:
        """Let the lease expire now, because the attempt will not end: the reconciler decides what follows.

        Only a `begun` attempt counts against its run.
        """
        keys = self._keys
        facts = [lease.run_id, lease.fence, reason, "1" if begun else "0"]
        return bool(self._call["abandon"]([keys.run(lease.run_id), keys.leases], facts))

    def cancel(self, run_id: str, attempt: int, order: str, *, running: bool, unleased_only: bool) -> tuple[str, str]:
        """Cancel a run by an order, which is the event that says so: it ends now, or its worker is told.

        `attempt` is the latest that PostgreSQL knows; a run of which Redis has no record ends too, unless it is believed to
        be `running`. (*cancelled*, the attempt that has ended so), (*leased*, the worker or ''), or (*ended*, ''): it is
        over by itself.
        """
        keys = self._keys
        facts = [attempt, order, RECORD_LIFE_S, "1" if running else "0", "1" if unleased_only else "0"]
        how, what = self._call["cancel"]([keys.run(run_id), keys.events], facts)
        return _text(how), _text(what)

    def return_run(
        self,
        run_id: str,
        fence: int,
        *,
        events: Sequence[str],
        queue_list: str,
        message: str,
        expired_only: bool,
        delayed: bool = False,
    ) -> bool:
        """End an attempt that will not end by itself, and queue the next one (or none: an empty message, a dead run, or
        one whose next attempt is `delayed`).

        `events` are appended in order; `queue_list` is the full key of the Redis list. False: nothing was changed,
        because the lease is another's, has ended or (`expired_only`) holds.
        """
        keys = self._keys
        return bool(
            self._call["return_run"](
                [keys.run(run_id), keys.leases, keys.events, queue_list, index_of(keys, queue_list)],
                [run_id, fence, "1" if expired_only else "0", RECORD_LIFE_S, message, "1" if delayed else "0", *events],
            )
        )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
