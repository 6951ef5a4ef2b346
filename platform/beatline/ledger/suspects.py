"""Lost suspects: runs that were accepted, and neither ended, nor wait, nor run. Zero at rest.

A suspect may be on its way: the reconciler puts it back within a lease and ten seconds. One that stays is lost, or the
recorder is; or it has stood in its state for over a day, or put a chain or a chord in its place that has not come to its end
for so long: those nobody repeats (see `forgotten`), and a person decides.

The lists are not read for this. So a message of a stock producer that waits may hide one run that was taken off the same
queue's lists, until it is gone; the reconciler, which reads them, puts that run back all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from beatline.clock import utc_now
from beatline.engine.index import CALL, Index, Waiting
from beatline.engine.messages import MAX_PRIORITY, list_key
from beatline.ledger.database import sql
from beatline.ledger.records import attempt_in
from beatline.ledger.stream import measure

if TYPE_CHECKING:
    from beatline.installation import Installation

GRACE_S: Final = 5.0
"""How long a run may be on its way: between the event that moved it and its being seen where it is now."""
EXAMPLES: Final = 10
PAGE: Final = CALL
PAGES: Final = 40
"""Open runs that are looked at, the oldest first: 20,000 of them take about a second."""

_OPEN: Final = """
    SELECT id, queue, state, attempt, coalesce(priority, 0) AS priority, queued_at, accepted_at FROM {schema}.runs
    WHERE state IN ('accepted', 'queued', 'running', 'retrying', 'lost') AND ended_at IS NULL
      AND changed_at < :before AND (queued_at IS NULL OR queued_at < :before) AND (eta IS NULL OR eta < :before)
      AND accepted_at >= :after AND (accepted_at, id) > (:after, :after_id)
    ORDER BY accepted_at, id LIMIT :page
"""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Open runs that are in no queue, under no lease and not delayed, with the ids of the oldest.

    `looked_at` is how many open runs were looked at; without `complete`, there are more of them.
    """

    count: int
    examples: tuple[str, ...]
    looked_at: int
    complete: bool


def lost_suspects(installation: Installation, conn: Connection) -> Suspects:
    """Look for them now. Raises the errors of Redis and of PostgreSQL."""
    redis: Any = installation.redis
    keys = installation.keys
    lag = measure(redis, keys)
    before = utc_now() - timedelta(seconds=GRACE_S + lag.lag_s)
    search = _Search(installation)
    after, after_id, looked_at, complete = datetime.min.replace(tzinfo=UTC), "", 0, False
    for _ in range(PAGES):
        rows = conn.execute(
            sql(conn, _OPEN), {"before": before, "after": after, "after_id": after_id, "page": PAGE}
        ).all()
        search.look_at(rows)
        looked_at += len(rows)
        complete = len(rows) < PAGE
        if complete:
            break
        after, after_id = rows[-1].accepted_at, rows[-1].id
    return Suspects(search.count, tuple(search.examples[:EXAMPLES]), looked_at, complete)


class _Search:
    """What one look has found so far."""

    def __init__(self, installation: Installation) -> None:
        self._redis: Any = installation.redis
        self._keys = installation.keys
        self._index = Index(installation.redis, installation.keys)
        self._low_first = installation.settings.priority_order == "low_first"
        self._looked: dict[str, Waiting] = {}
        self._unnamed: Counter[str] = Counter()
        self.count = 0
        self.examples: list[str] = []

    def look_at(self, rows: Sequence[Any]) -> None:
        """Count those of these runs that are nowhere. They are looked for in the order in which a run comes by."""
        self._looked |= self._index.look({row.queue for row in rows} - self._looked.keys())
        listed = self._index.listed([(row.queue, row.id) for row in rows])
        rest = [(row, since) for row, since in zip(rows, listed, strict=True) if self._may_be_gone(row, since)]
        if not rest:
            return
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zmscore(self._keys.leases, [row.id for row, _ in rest])
            for row, _ in rest:
                pipe.hmget(self._keys.run(row.id), "attempt", "state")
            leases, *records = pipe.execute()
        for (row, since), lease, record in zip(rest, leases, records, strict=True):
            if lease is None and not _is_over(row, *record) and not self._may_be_listed(row, since):
                self.count += 1
                self.examples.append(row.id)

    def _may_be_gone(self, row: Any, since: float | None) -> bool:
        """In no index, or taken off its list: then the index names more runs than there are messages."""
        waiting = self._looked[row.queue]
        return since is None or (waiting.runs > waiting.messages and self._passed(row))

    def _may_be_listed(self, row: Any, since: float | None) -> bool:
        """Whether it is one of the messages that the index does not name: an older Beatline published them."""
        if since is not None or row.state != "queued" or self._passed(row):
            return False
        self._unnamed[row.queue] += 1
        waiting = self._looked[row.queue]
        return self._unnamed[row.queue] <= waiting.messages - waiting.runs

    def _passed(self, row: Any) -> bool:
        key = list_key(self._keys, row.queue, min(row.priority, MAX_PRIORITY), low_first=self._low_first)
        return row.queued_at is not None and self._looked[row.queue].passed(key, row.queued_at)


def _is_over(row: Any, attempt: str | None, state: str | None) -> bool:
    """Whether Redis remembers that the attempt ended: what that came to is on its way."""
    return attempt_in(attempt) >= row.attempt and state != "leased"
