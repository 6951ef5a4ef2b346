"""Puts back what was lost on the way: runs accepted and never queued, runs in no queue, runs whose lease expired.

Publishing a run again is harmless, because an attempt is claimed once. So a round need not be exact: it must happen.

That holds as long as Redis knows what was claimed. After it lost data, only the workers do. So nothing at all is published
before the same server has answered, in the same epoch, for a full lease: a worker renews thrice in a lease at least, and
with its first renewal writes the leases and sends the ends that Redis has forgotten. `settled` in Redis names the data set
for which that has been waited out; who starts later need not wait for what needs no proof of silence.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from beatline.clock import monotonic_s, utc_now
from beatline.engine.messages import StoredMessage, next_attempt
from beatline.engine.publish import publish_stored
from beatline.errors import SecretError
from beatline.failpoints import reach
from beatline.ledger.apply import message_binding
from beatline.ledger.database import open_engine, schema_of, sql
from beatline.ledger.epochs import Server
from beatline.ledger.expired import ExpiredLeases
from beatline.ledger.missing import MissingMessages
from beatline.ledger.store import mark_queued
from beatline.ledger.stream import measure
from beatline.logs import get_logger

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

GRACE_S: Final = 5.0
"""A run accepted so long ago has been queued by who accepted it, or never will be."""
PAGE: Final = 100
PAGES: Final = 10
"""Pages a round: after them the recorder reads events again."""

_NEVER_QUEUED: Final = """
    SELECT day, id, attempt, message FROM {schema}.runs
    WHERE state = 'accepted' AND ended_at IS NULL AND accepted_at < :before AND message IS NOT NULL
      AND id <> ALL(:unreadable)
    ORDER BY accepted_at LIMIT :page FOR UPDATE SKIP LOCKED
"""

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
        self._missing = MissingMessages(installation, redis)
        self._unreadable: set[str] = set()

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
            if server.settled != server.data_set:
                if not steady:
                    return
                self._redis.set(self._installation.keys.settled, server.data_set)
            for _ in range(PAGES):
                if self._publish_accepted(server) < PAGE:
                    break
            self._expired.put_back(server, abandoned_only=not steady)
            if steady:
                self._missing.put_back(server)

    def _publish_accepted(self, server: Server) -> int:
        # What was queued has said so within the grace, and everything older than the lag has been read.
        lag = measure(self._redis, self._installation.keys)
        before = utc_now() - timedelta(seconds=GRACE_S + lag.lag_s)
        with self._engine.begin() as conn:
            rows = conn.execute(
                sql(conn, _NEVER_QUEUED), {"before": before, "page": PAGE, "unreadable": list(self._unreadable)}
            ).all()
            messages: list[StoredMessage] = []
            for row in rows:
                message = self._open(row.id, row.message, row.attempt, server.epoch or 0)
                if message is not None:
                    messages.append(message)
            publish_stored(self._installation, messages)
            reach("reconcile.published")
            queued = {message.run_id for message in messages}
            mark_queued(conn, [(row.day, row.id) for row in rows if row.id in queued], utc_now())
        if messages:
            log.warning("accepted_runs_published", count=len(messages), example=messages[0].run_id)
        return len(rows)

    def _open(self, run_id: str, sealed: bytes, attempt: int, epoch: int) -> StoredMessage | None:
        try:
            plain = self._installation.keyring.decrypt(bytes(sealed), bound_to=message_binding(run_id))
            return next_attempt(plain, attempt, epoch)
        except (SecretError, ValueError) as exc:
            # Excluded from now on, so that the runs behind it go on; a restart of the recorder tries it again.
            self._unreadable.add(run_id)
            log.error("message_unreadable", run_id=run_id, error=str(exc))
            return None
