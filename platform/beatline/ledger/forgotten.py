"""Runs that had begun, and of which Redis knows nothing any more: their worker and Redis's memory of it are both gone.

A lease is what `expired` looks for, and Redis lost it. Whoever lives has written his leases again before anything is put
back, and sent his ends again; so a run that PostgreSQL knows as begun, without a record, a lease or a message, has nobody.
It is given a lease that has expired, and goes the way of all of those.

Two kinds are left alone. An attempt that put another task, a chain or a chord in its place is over, and what it put there
carries the run on: often no message names it before the other parts have ended. And of a run that has been in its state
for longer than Redis remembers any, nobody knows why it stands there: a person decides (see `suspects`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from beatline.clock import monotonic_s
from beatline.engine.claim import RECORD_LIFE_S
from beatline.engine.doubt import DOUBTED_AGE_MS
from beatline.engine.index import CALL, Index
from beatline.ledger.database import open_engine, sql
from beatline.ledger.stream import measure
from beatline.logs import get_logger

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

EVERY_S: Final = 2.0
PAGE: Final = CALL
PAGES: Final = 10
_EXPIRED: Final = 1
"""When their leases ended, in ms since 1970: 0 would say that a holder gave them up."""

_BEGUN: Final = """
    SELECT r.id, r.queue, r.accepted_at FROM {schema}.runs r
    WHERE r.state IN ('running', 'retrying', 'lost') AND r.ended_at IS NULL
      AND r.changed_at < now() - :grace AND r.changed_at > now() - :remembered
      AND r.accepted_at >= :after AND (r.accepted_at, r.id) > (:after, :after_id)
      AND NOT EXISTS (SELECT 1 FROM {schema}.attempts a WHERE a.day = r.day AND a.run_id = r.id
        AND a.attempt = r.attempt AND a.outcome = 'replaced')
    ORDER BY r.accepted_at, r.id LIMIT :page
"""
_START: Final = (datetime.min.replace(tzinfo=UTC), "")

log = get_logger(__name__)


class ForgottenRuns:
    """Gives runs that nobody holds or remembers a lease that has expired."""

    def __init__(self, installation: Installation, redis: Redis) -> None:
        self._engine = open_engine(installation.settings)
        self._redis: Any = redis
        self._keys = installation.keys
        self._index = Index(redis, installation.keys)
        self._grace_s = installation.settings.lease_s
        self._next = 0.0
        self._after = _START

    def find(self) -> None:
        """Look for them, every EVERY_S seconds at most."""
        if monotonic_s() < self._next:
            return
        self._next = monotonic_s() + EVERY_S
        lag = measure(self._redis, self._keys)
        if lag.lag_s * 1000 > DOUBTED_AGE_MS:
            return  # its end may have been forgotten since, and not been read yet
        # By PostgreSQL's clock: a recorder whose own is ahead must not take for lost what has begun a moment ago.
        window = {
            "grace": timedelta(seconds=self._grace_s + lag.lag_s),
            "remembered": timedelta(seconds=RECORD_LIFE_S),
        }
        for _ in range(PAGES):
            with self._engine.connect() as conn:
                rows = conn.execute(
                    sql(conn, _BEGUN),
                    {**window, "after": self._after[0], "after_id": self._after[1], "page": PAGE},
                ).all()
            self._expire([row.id for row in self._unheld(rows)])
            if len(rows) < PAGE:
                self._after = _START
                return
            self._after = (rows[-1].accepted_at, rows[-1].id)

    def _unheld(self, rows: Sequence[Any]) -> list[Any]:
        """Those that no queue, lease or record knows, asked in the order in which a run comes by."""
        waiting = self._index.listed([(row.queue, row.id) for row in rows])
        rest = [row for row, since in zip(rows, waiting, strict=True) if since is None]
        if not rest:
            return []
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zmscore(self._keys.leases, [row.id for row in rest])
            for row in rest:
                pipe.hget(self._keys.run(row.id), "state")
            leases, *states = pipe.execute()
        return [
            row
            for row, lease, state in zip(rest, leases, states, strict=True)
            if lease is None and state in (None, "leased")
        ]

    def _expire(self, run_ids: Sequence[str]) -> None:
        if run_ids:
            # Unless somebody claims it at this moment.
            self._redis.zadd(self._keys.leases, dict.fromkeys(run_ids, _EXPIRED), nx=True)
            log.warning("forgotten_runs_found", count=len(run_ids), example=run_ids[0])
