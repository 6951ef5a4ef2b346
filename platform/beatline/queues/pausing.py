"""Pause a queue everywhere, and resume it: workers take nothing from it, wherever and whenever they were started.

A pause stands in PostgreSQL; Redis has a copy, which workers look at, and which the reconciler writes again where it was
lost. Both are written under one lock, so that neither can be taken for the other's past. Sending goes on: what is sent to a
paused queue waits in it, as any backlog does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError
from sqlalchemy import Connection, delete, insert, select, text

from beatline.clock import utc_now
from beatline.engine.hurry import hurried
from beatline.engine.orders import TOLD
from beatline.errors import ConflictError, NotFoundError
from beatline.ledger.database import schema_of
from beatline.ledger.model import audit, queue_pauses
from beatline.logs import get_logger
from beatline.queues.routing import known_queues

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation
    from beatline.names import Keys

UNDER_LOCK_S: Final = 1.0
"""So long Redis is waited for while others wait for the lock."""
_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pause:
    """A queue that is paused: since when, by whom, and why."""

    queue: str
    since: datetime
    who: str
    reason: str | None

    def sentence(self) -> str:
        """What to tell a person."""
        why = f": {self.reason}" if self.reason else ""
        return f"The queue {self.queue} is paused since {self.since:%Y-%m-%d %H:%M:%S} UTC, by {self.who}{why}."


@dataclass(frozen=True, slots=True)
class Changed:
    """What was done to a queue. Not `told`: Redis did not answer, and a recorder tells the workers when it does."""

    queue: str
    paused: bool
    told: bool


def pause(installation: Installation, queue: str, *, who: str, reason: str | None = None) -> Changed:
    """Have no worker take anything from a queue, until it is resumed; what runs goes on, what was only reserved goes back.

    Raises NotFoundError, which names the queues there are, and ConflictError if it is paused already.
    """
    _check(installation, queue)
    with installation.engine.begin() as conn:
        _lock(conn)
        stands = paused(conn).get(queue)
        if stands is not None:
            raise ConflictError(f"{stands.sentence()} `beatline queues resume {queue}` ends that.")
        row = {"queue": queue, "since": utc_now(), "who": who, "reason": reason}
        conn.execute(insert(queue_pauses).values(**row))
        _audit(conn, "pause", queue, who, after={"reason": reason})
        told = _copied(installation, conn)
    return Changed(queue, True, told)


def resume(installation: Installation, queue: str, *, who: str) -> Changed:
    """Have workers take from a queue again. Raises ConflictError if it is not paused, and NotFoundError as `pause` does."""
    with installation.engine.begin() as conn:
        _lock(conn)
        if conn.execute(delete(queue_pauses).where(queue_pauses.c.queue == queue)).rowcount == 0:
            _check(installation, queue)  # one that is declared no more can be resumed all the same
            raise ConflictError(f"The queue {queue} is not paused: workers take from it.")
        _audit(conn, "resume", queue, who, after=None)
        told = _copied(installation, conn)
    return Changed(queue, False, told)


def paused(conn: Connection) -> Mapping[str, Pause]:
    """The queues that are paused, by name."""
    rows = conn.execute(select(queue_pauses).order_by(queue_pauses.c.queue))
    return {row.queue: Pause(row.queue, row.since, row.who, row.reason) for row in rows}


def mend(conn: Connection, redis: Redis, keys: Keys) -> bool:
    """Bring Redis's copy to what PostgreSQL says, in a transaction of its own. Whether it was otherwise."""
    _lock(conn)
    return _copy(redis, keys, paused(conn))


def _check(installation: Installation, queue: str) -> None:
    known = known_queues(installation.settings.queues)
    if queue not in known:
        raise NotFoundError("queue", queue, f"Queues: {', '.join(sorted(known))}.")


def _lock(conn: Connection) -> None:
    conn.execute(_LOCK, {"name": f"beatline.pauses:{schema_of(conn)}"})


def _audit(conn: Connection, action: str, queue: str, who: str, *, after: object) -> None:
    conn.execute(insert(audit).values(at=utc_now(), who=who, action=action, kind="queue", name=queue, after=after))


def _copied(installation: Installation, conn: Connection) -> bool:
    try:
        with hurried(UNDER_LOCK_S):
            _copy(installation.redis, installation.keys, paused(conn))
    except RedisError as exc:
        log.warning("pause_waits_for_redis", error=str(exc), then="a recorder tells the workers when it answers")
        return False
    return True


def _copy(redis: Any, keys: Keys, pauses: Mapping[str, Pause]) -> bool:
    wanted = {
        one.queue: json.dumps({"since": one.since.isoformat(), "who": one.who, "reason": one.reason})
        for one in pauses.values()
    } | {TOLD: "1"}
    if redis.hgetall(keys.paused) == wanted:
        return False
    with redis.pipeline(transaction=True) as pipe:
        pipe.delete(keys.paused)
        pipe.hset(keys.paused, mapping=wanted)
        pipe.execute()
    return True
