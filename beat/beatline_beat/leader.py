"""One leader, any number of stand-bys: two states of one loop. A lost lock steps down, and nothing here exits."""

from __future__ import annotations

import os
import socket
from enum import StrEnum
from typing import Final
from uuid import uuid4

from redis import RedisError
from sqlalchemy import Engine

from beatline.clock import monotonic_s
from beatline.installation import RedisClient
from beatline.ledger.database import sql
from beatline.logs import get_logger
from beatline.schedules.occurrences import ROLE, Scribe

log = get_logger(__name__)


class State(StrEnum):
    """Where a Beat stands."""

    FOLLOWER = "follower"
    LEADER = "leader"


_EXTEND: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_STEP_UP: Final = """
INSERT INTO {schema}.leaders (role, number, holder, since) VALUES (:role, 1, :holder, now())
ON CONFLICT (role) DO UPDATE SET number = leaders.number + 1, holder = excluded.holder, since = excluded.since
RETURNING number
"""

_NUMBER: Final = "SELECT number FROM {schema}.leaders WHERE role = :role"


class Leadership:
    """This process's claim to lead: RedBeat's lock in Redis for seconds, and a number in PostgreSQL that fences it.

    The lock says who should act; the number keeps one that lost the lock without noticing from writing.
    """

    def __init__(self, redis: RedisClient, engine: Engine, lock_key: str, lock_s: float) -> None:
        self._redis, self._engine, self._lock_key = redis, engine, lock_key
        self._lock_ms = int(lock_s * 1000)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.token: Final = f"{self.name}:{uuid4().hex}"
        self.state = State.FOLLOWER
        self._number = 0
        self._sure_until = 0.0
        self._extend = redis.register_script(_EXTEND)
        self._release = redis.register_script(_RELEASE)

    @property
    def scribe(self) -> Scribe:
        """Who writes the decisions of this leadership."""
        return Scribe(self._number, self.name)

    def step(self) -> State:
        """Keep the lock, or take it if it is free. Raises what Redis or PostgreSQL raise, and steps down in time."""
        try:
            if self.state is State.LEADER and not self._keep():
                self._step_down("the lock was lost")
            if self.state is State.FOLLOWER and self._take():
                self._step_up()
        except RedisError:
            if self.state is State.LEADER and not self.holds():
                self._step_down("Redis did not answer for as long as the lock lasts")
            raise
        return self.state

    def holds(self) -> bool:
        """Whether the lock cannot have passed to another yet, by this machine's monotonic clock."""
        return self.state is State.LEADER and monotonic_s() < self._sure_until

    def check_number(self) -> None:
        """Step down if another Beat has stepped up since."""
        with self._engine.connect() as conn:
            number = conn.execute(sql(conn, _NUMBER), {"role": ROLE}).scalar()
        if number != self._number and self.state is State.LEADER:
            self._step_down("another Beat leads")

    def close(self) -> None:
        """Hand over at once: free the lock if it is ours."""
        if self.state is State.LEADER:
            self.state = State.FOLLOWER
            self._release([self._lock_key], [self.token])
            log.info("beat: lock released", number=self._number)

    def _keep(self) -> bool:
        asked = monotonic_s()
        kept = bool(self._extend([self._lock_key], [self.token, self._lock_ms]))
        if kept:
            self._sure_until = asked + self._lock_ms / 1000
        return kept

    def _take(self) -> bool:
        asked = monotonic_s()
        # The answer to an earlier SET may have been lost: then the lock is ours already.
        if not self._redis.set(self._lock_key, self.token, nx=True, px=self._lock_ms) and not self._keep():
            return False
        self._sure_until = asked + self._lock_ms / 1000
        return True

    def _step_up(self) -> None:
        try:
            with self._engine.begin() as conn:
                self._number = conn.execute(
                    sql(conn, _STEP_UP), {"role": ROLE, "holder": self.name}
                ).scalar_one()  # fmt: skip
        except BaseException:
            # Without PostgreSQL nothing can be decided here; perhaps another Beat reaches it.
            self._release([self._lock_key], [self.token])
            raise
        self.state = State.LEADER
        log.info("beat: leading", number=self._number, holder=self.name)

    def _step_down(self, why: str) -> None:
        self.state = State.FOLLOWER
        log.warning("beat: stepped down", reason=why, number=self._number)
