"""What the reconciler does for cancelled runs, and for runs whose time has passed while nobody looked at them.

Who cancels a run carries it out himself. What is left is what he could not: Redis was away, or has lost its data since, or
the worker that was told is gone and its run came back. Whether a time has passed is PostgreSQL's to say, one clock for all
recorders: one whose own is ahead ends nothing early.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError
from sqlalchemy import Connection

from beatline.clock import monotonic_s, utc_now
from beatline.engine.claim import RECORD_LIFE_S, Claims
from beatline.engine.orders import Order
from beatline.ledger.cancel import Cancelled, OverError, Row, settle, tell_waiting
from beatline.ledger.database import open_engine, sql
from beatline.ledger.events import Event
from beatline.ledger.states import EventKind
from beatline.logs import get_logger

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

EVERY_S: Final = 2.0
EXPIRED: Final = "expired"
"""The reason of a run whose `expires` passed before it began, whoever noticed."""
EXPIRED_SINCE: Final = timedelta(seconds=5)
"""A worker that takes the run in its last moments goes first."""
PAGE: Final = 200
_FIRST: Final = (datetime(1, 1, 1, tzinfo=UTC), "")
"""Before every order."""
REMINDED: Final = 20_000
FORGETTING_S: Final = 3600.0
FORGOTTEN: Final = timedelta(days=2)
"""An order that stands so long after its run has ended has no message left that it could stop."""

_OPEN: Final = """
    SELECT r.id, r.day, r.task, r.queue, r.state, r.attempt, r.message, c.at, c.reason, c.hard
    FROM {schema}.cancellations c JOIN {schema}.run_days d ON d.id = c.run_id
    JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id
    WHERE r.ended_at IS NULL AND (c.at, c.run_id) > (:at, :run_id)
    ORDER BY c.at, c.run_id LIMIT :page FOR UPDATE OF r SKIP LOCKED
"""
_EXPIRED: Final = """
    SELECT id, day, task, queue, state, attempt, message FROM {schema}.runs r
    WHERE ended_at IS NULL AND expires < now() - :since AND state <> 'running' AND id <> ALL(:held)
      AND NOT EXISTS (SELECT 1 FROM {schema}.attempts a WHERE a.day = r.day AND a.run_id = r.id
        AND a.attempt = r.attempt AND a.outcome = 'replaced')
    ORDER BY expires LIMIT :page FOR UPDATE OF r SKIP LOCKED
"""
_ENDED: Final = """
    SELECT r.id, r.day, r.task, r.queue, r.attempt, c.reason, c.hard
    FROM {schema}.cancellations c JOIN {schema}.run_days d ON d.id = c.run_id
    JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id WHERE r.ended_at IS NOT NULL
    ORDER BY c.at DESC LIMIT :most
"""
_FORGET: Final = """
    DELETE FROM {schema}.cancellations c WHERE c.at < now() - :age AND NOT EXISTS (
        SELECT 1 FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id
        WHERE d.id = c.run_id AND r.ended_at IS NULL)
"""

log = get_logger(__name__)


class Cancellations:
    """Carries out what is left of the orders to cancel, a page at a time. Costs two indexed queries every EVERY_S seconds."""

    def __init__(self, installation: Installation, redis: Redis) -> None:
        self._installation = installation
        self._engine = open_engine(installation.settings)
        self._redis: Any = redis
        self._claims = Claims(redis, installation.keys, installation.settings.lease_s)
        self._next = self._next_forgetting = 0.0
        self._reminded = ""
        self._after = _FIRST
        self._held: set[str] = set()

    def carry_out(self, data_set: str, *, final: bool) -> None:
        """End, or have ended, every cancelled run that is open, and end what has expired and no worker holds.

        `final` is whether every worker that lives has told Redis, which is `data_set`, what it holds. Raises RedisError, with
        what was done until then committed: Redis knows of it, and nobody would come back to it.
        """
        if monotonic_s() < self._next:
            return
        self._next = monotonic_s() + EVERY_S
        if monotonic_s() >= self._next_forgetting:
            self._next_forgetting = monotonic_s() + FORGETTING_S
            with self._engine.begin() as conn:
                conn.execute(sql(conn, _FORGET), {"age": FORGOTTEN})
        if self._reminded != data_set:
            self._remind()
            self._reminded = data_set
        done: list[tuple[Row, Cancelled, str]] = []
        away: RedisError | None = None
        with self._engine.begin() as conn:
            try:
                self._open(conn, done, final=final)
                self._expired(conn, done)
            except RedisError as exc:
                away = exc
        for row, cancelled, reason in done:
            if cancelled.how == "ended":
                log.info("run_cancelled", run_id=row.run_id, task=row.task, reason=reason)
                tell_waiting(self._installation, row.run_id, row.message, reason)
        if away is not None:
            raise away

    def _open(self, conn: Connection, done: list[tuple[Row, Cancelled, str]], *, final: bool) -> None:
        """A page goes on where the one before ended: cancelled runs that do not end must not hide those behind them."""
        at, run_id = self._after
        rows = conn.execute(sql(conn, _OPEN), {"at": at, "run_id": run_id, "page": PAGE}).all()
        for one in rows:
            done += self._settled(conn, Row.of(one), Order(one.reason, one.hard), final=final)
            self._after = (one.at, one.id)
        if len(rows) < PAGE:
            self._after = _FIRST

    def _settled(
        self, conn: Connection, row: Row, order: Order, *, final: bool = False, unleased_only: bool = False
    ) -> list[tuple[Row, Cancelled, str]]:
        try:
            done = settle(
                self._installation, conn, self._claims, row, order, final=final, unleased_only=unleased_only
            )  # fmt: skip
        except OverError:
            return []  # history is about to say how
        return [(row, done, order.reason)]

    def _expired(self, conn: Connection, done: list[tuple[Row, Cancelled, str]]) -> None:
        """What a worker holds it ends itself, before it begins; what has begun before its time passed goes on."""
        asked = {"since": EXPIRED_SINCE, "page": PAGE, "held": list(self._held)}
        rows = [Row.of(row) for row in conn.execute(sql(conn, _EXPIRED), asked)]
        order = Order(EXPIRED)
        ended: set[str] = set()
        for row in rows:
            settled = self._settled(conn, row, order, unleased_only=True)
            done += settled
            ended |= {row.run_id for _, cancelled, _ in settled if cancelled.how == "ended"}
        # Looked at anew once a round had nothing else to do: a page of runs in workers' hands must not hide the others.
        self._held = self._held | {row.run_id for row in rows if row.run_id not in ended} if rows else set()

    def _remind(self) -> None:
        """Write the orders of ended runs on their records again, which a Redis that lost data has forgotten: a message of
        theirs may still be on its way."""
        with self._engine.connect() as conn:
            rows = conn.execute(sql(conn, _ENDED), {"most": REMINDED}).all()
        with self._redis.pipeline(transaction=False) as pipe:
            for row in rows:
                key = self._installation.keys.run(row.id)
                event = Event(
                    kind=EventKind.CANCELLED, run_id=row.id, attempt=row.attempt, day=row.day.isoformat(),
                    at=round(utc_now().timestamp(), 3), task=row.task, queue=row.queue, reason=row.reason,
                )  # fmt: skip
                pipe.hsetnx(key, "attempt", row.attempt)
                pipe.hsetnx(key, "state", "cancelled")
                pipe.hset(key, "cancel", Order(row.reason, row.hard).write(event))
                pipe.expire(key, RECORD_LIFE_S)
            pipe.execute()
