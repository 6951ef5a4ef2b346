"""Runs whose message is gone: queued, claimed by nobody, and in no queue any more.

A worker that is killed between taking a message off its list and claiming it takes the message along, and so does a
Redis that loses data. A list is first in, first out: what was queued before its oldest message, and was not claimed, is
not in it. So one look at the end of each list tells the missing from a backlog of any length.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from beatline.clock import monotonic_s, utc_now
from beatline.engine import headers as h
from beatline.engine.messages import MAX_PRIORITY, StoredMessage, list_key, next_attempt, parked_key
from beatline.engine.publish import publish_stored
from beatline.errors import SecretError
from beatline.ledger.apply import message_binding
from beatline.ledger.database import open_engine, sql
from beatline.ledger.epochs import Server
from beatline.logs import get_logger

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

EVERY_S: Final = 5.0
GRACE_S: Final = 5.0
"""On top of a lease: how long a message may be between its list and its claim before it is looked for."""
MARGIN: Final = timedelta(seconds=5)
"""How far the clocks of two senders may differ. A wrong guess sends a message twice, and the claim drops one."""
PAGE: Final = 200
PAGES: Final = 10
MOST_TIMES: Final = 3
"""How often the message of one attempt is published again. One that goes on vanishing is taken by a worker that is not
Beatline's and claims nothing, or kills its worker before the claim: more of it would only execute it again."""
_REMEMBERED: Final = 100_000

_QUEUES: Final = """
    SELECT DISTINCT queue, coalesce(priority, 0) AS priority FROM {schema}.runs
    WHERE state = 'queued' AND ended_at IS NULL AND queued_at < :before
"""
_CANDIDATES: Final = """
    SELECT id, attempt, message, queued_at FROM {schema}.runs
    WHERE state = 'queued' AND ended_at IS NULL AND message IS NOT NULL AND queue = :queue
      AND coalesce(priority, 0) = ANY(:priorities) AND queued_at < :before AND (eta IS NULL OR eta < :before)
      AND (queued_at, id) > (:after, :after_id)
    ORDER BY queued_at, id LIMIT :page
"""

log = get_logger(__name__)


class MissingMessages:
    """Publishes again what is queued and in no queue. Publishing what was not missing does no harm."""

    def __init__(self, installation: Installation, redis: Redis) -> None:
        self._installation = installation
        self._engine = open_engine(installation.settings)
        self._redis: Any = redis
        self._keys = installation.keys
        self._low_first = installation.settings.priority_order == "low_first"
        self._grace = timedelta(seconds=installation.settings.lease_s + GRACE_S)
        self._next = 0.0
        self._published: Counter[tuple[str, int]] = Counter()

    def put_back(self, server: Server) -> None:
        """Look for them, every EVERY_S seconds at most."""
        if monotonic_s() < self._next:
            return
        self._next = monotonic_s() + EVERY_S
        before = utc_now() - self._grace
        with self._engine.connect() as conn:
            lists = self._lists(conn, before)
            for (queue, key), priorities in lists.items():
                ends = (_published_at(self._redis.lindex(end, -1)) for end in (key, parked_key(key)))
                limit = min([before, *(oldest - MARGIN for oldest in ends if oldest is not None)])
                self._search(conn, queue, priorities, limit, server)

    def _lists(self, conn: Connection, before: datetime) -> Mapping[tuple[str, str], list[int]]:
        """The lists that old queued runs should lie in, with the priorities that lead there."""
        found: dict[tuple[str, str], list[int]] = {}
        for row in conn.execute(sql(conn, _QUEUES), {"before": before}):
            key = list_key(self._keys, row.queue, min(row.priority, MAX_PRIORITY), low_first=self._low_first)
            found.setdefault((row.queue, key), []).append(row.priority)
        return found

    def _search(self, conn: Connection, queue: str, priorities: list[int], limit: datetime, server: Server) -> None:
        after, after_id = datetime.min.replace(tzinfo=UTC), ""
        for _ in range(PAGES):
            rows = conn.execute(
                sql(conn, _CANDIDATES),
                {"queue": queue, "priorities": priorities, "before": limit, "after": after, "after_id": after_id,
                 "page": PAGE},
            ).all()  # fmt: skip
            missing = [row for row in self._unclaimed(rows) if self._may_be_published(row, queue)]
            messages = [message for row in missing if (message := self._message(row, server)) is not None]
            publish_stored(self._installation, messages)
            if messages:
                log.warning("missing_messages_published", queue=queue, count=len(messages), example=messages[0].run_id)
            if len(rows) < PAGE:
                return
            after, after_id = rows[-1].queued_at, rows[-1].id

    def _may_be_published(self, row: Any, queue: str) -> bool:
        if len(self._published) > _REMEMBERED:
            self._published.clear()
        self._published[row.id, row.attempt] += 1
        times = self._published[row.id, row.attempt]
        if times == MOST_TIMES + 1:
            hint = "does a worker that is not Beatline's serve this queue? Stop it, then retry the run"
            log.error("message_vanishes_unclaimed", run_id=row.id, queue=queue, published=MOST_TIMES, hint=hint)
        return times <= MOST_TIMES

    def _unclaimed(self, rows: Sequence[Any]) -> list[Any]:
        """Those whose attempt no worker has claimed: a reserved run is still *queued*, as far as PostgreSQL knows.

        Where an older attempt is still leased, the message waits for it in a worker's hands.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for row in rows:
                pipe.hmget(self._keys.run(row.id), "attempt", "state")
            records = pipe.execute()
        return [
            row
            for row, (attempt, state) in zip(rows, records, strict=True)
            if int(attempt or 0) < row.attempt and state != "leased"
        ]

    def _message(self, row: Any, server: Server) -> StoredMessage | None:
        try:
            plain = self._installation.keyring.decrypt(bytes(row.message), bound_to=message_binding(row.id))
            return next_attempt(plain, row.attempt, server.epoch or 0)
        except (SecretError, ValueError) as exc:
            log.error("message_unreadable", run_id=row.id, error=str(exc))
            return None


def _published_at(payload: str | None) -> datetime | None:
    """When the message at the end of a list was sent; the beginning of time if it does not say, None if there is none."""
    if payload is None:
        return None
    try:
        return datetime.fromtimestamp(float(json.loads(payload)["headers"][h.PUBLISHED]), UTC)
    except (ValueError, KeyError, TypeError):
        return datetime.min.replace(tzinfo=UTC) + MARGIN
