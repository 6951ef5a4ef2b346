"""Puts back what was lost on the way: runs in no queue, runs whose lease expired. (What never got so far has `relay`.)

Publishing a run again is harmless, because an attempt is claimed once. So a round need not be exact: it must happen.

That holds as long as Redis knows what was claimed. After it lost data, only the workers do. So nothing at all is published
before the same server has answered, in the same epoch, for a full lease: a worker renews thrice in a lease at least, and
with its first renewal writes the leases and sends the ends that Redis has forgotten. `settled` in Redis names the data set
for which that has been waited out; who starts later need not wait for what needs no proof of silence. Nor does a delayed
run, which never was in Redis (see `delays`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from beatline.clock import monotonic_s
from beatline.ledger.cancellations import Cancellations
from beatline.ledger.database import open_engine, schema_of
from beatline.ledger.epochs import Server
from beatline.ledger.expired import ExpiredLeases
from beatline.ledger.forgotten import ForgottenRuns
from beatline.ledger.missing import MissingMessages
from beatline.logs import get_logger
from beatline.queues import pausing

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

PAUSES_S: Final = 5.0
"""How often Redis's copy of the pauses is compared with PostgreSQL's; at once where Redis is another one."""

log = get_logger(__name__)


class Sight:
    """Since when one Redis has answered, the same server in the same epoch, without a break by this process's clock."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._data_set = ""
        self._since = self._last = float("-inf")

    def lose(self) -> None:
        """The server did not answer."""
        self._data_set = ""

    def steady(self, server: Server) -> bool:
        """Whether it has now answered for a full lease: only then has every live worker renewed its leases.

        A silence of half a lease begins it anew: this process, and perhaps the whole machine, stood still.
        """
        now = monotonic_s()
        if server.data_set != self._data_set or now - self._last > self._lease_s / 2:
            self._data_set, self._since = server.data_set, now
        self._last = now
        return now - self._since >= self._lease_s


class Reconciler:
    """One of an installation's reconcilers; in each round one of them acts."""

    def __init__(self, installation: Installation, redis: Redis) -> None:
        self._installation = installation
        self._engine = open_engine(installation.settings)
        self._redis = redis
        self._sight = Sight(installation.settings.lease_s)
        self._expired = ExpiredLeases(installation, redis)
        self._forgotten = ForgottenRuns(installation, redis)
        self._missing = MissingMessages(installation, redis)
        self._cancellations = Cancellations(installation, redis)
        self._next_pauses, self._pauses_in = 0.0, ""

    def lost_sight(self) -> None:
        """Redis did not answer: no lease counts as expired until it has done so for a full lease."""
        self._sight.lose()

    def round(self, server: Server) -> None:
        """Put back what is lost, unless another reconciler is at it; nothing while a worker may not have met the epoch."""
        steady = self._sight.steady(server)
        with self._engine.begin() as leading:
            # Of the transaction, so that a leader who freezes or vanishes gives it up.
            leading.execute(text("SET LOCAL idle_in_transaction_session_timeout TO '60s'"))
            leads = leading.execute(
                text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": f"beatline.reconcile:{schema_of(leading)}"},
            ).scalar()
            if not leads:
                return
            self._mend_pauses(server)
            if server.settled != server.data_set:
                if not steady:
                    return
                self._redis.set(self._installation.keys.settled, server.data_set)
            self._cancellations.carry_out(server.data_set, final=steady)
            if steady:
                self._forgotten.find()
            self._expired.put_back(server, abandoned_only=not steady)
            if steady:
                self._missing.put_back(server)

    def _mend_pauses(self, server: Server) -> None:
        """What Redis has forgotten of pauses, or was not told."""
        if monotonic_s() >= self._next_pauses or self._pauses_in != server.data_set:
            self._next_pauses, self._pauses_in = monotonic_s() + PAUSES_S, server.data_set
            with self._engine.begin() as conn:
                if pausing.mend(conn, self._redis, self._installation.keys):
                    log.info("pauses_written_again")
