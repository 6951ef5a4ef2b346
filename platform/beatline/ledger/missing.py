"""Runs whose message is gone: queued, claimed by nobody, and in no queue any more.

A worker that is killed between taking a message off its list and claiming it takes the message along, and so does a
Redis that loses data, or a person who deletes a list. What waits stands in the index of its queue (`engine/index.py`).
Four answers tell the missing from a backlog of any length, none of which reads it:

- not in the index, and older than all that is in its list, which is first in, first out: it is missing;
- in the index, and that holds no more runs than the lists hold messages: it waits;
- in the index, which holds more, and older than all in its list: a worker has just taken it, or took it along. It is
  missing if it is still there and unclaimed a moment later;
- anything else has the lists read, once a minute at most: what is in none of them is missing, as before. Where only the
  counts differ, they must do so for some looks and come no closer: what is on its way to its claim does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from beatline.clock import monotonic_s, utc_now
from beatline.engine.doubt import DOUBTED_AGE_MS
from beatline.engine.index import CALL, MARGIN, Index, Waiting
from beatline.engine.messages import MAX_PRIORITY, StoredMessage, list_key, next_attempt
from beatline.engine.publish import publish_stored
from beatline.errors import SecretError
from beatline.failpoints import reach
from beatline.ledger.apply import message_binding
from beatline.ledger.database import open_engine, sql
from beatline.ledger.epochs import Server
from beatline.ledger.records import unclaimed
from beatline.ledger.states import ENDED
from beatline.ledger.stream import measure
from beatline.logs import get_logger
from beatline.queues.routing import known_queues

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

EVERY_S: Final = 2.0
CONFIRM_S: Final = 1.0
"""How long a message may be between its list and its claim, at least, before it counts as taken along."""
SETTLE_S: Final = 60.0
"""How often the lists of a queue are read at most."""
STEADY: Final = 5
"""Looks in a row that must find the difference of a queue's counts no smaller, before its lists are read for that alone."""
PAGE: Final = CALL
PAGES: Final = 5
"""Pages of runs a look goes through; the next one goes on from there."""
SIFTED: Final = 20
"""Pages of an index that are gone through after its lists were read."""
PUBLISHED_AT_ONCE: Final = 200
MOST_DOUBTS: Final = 20_000
MOST_TIMES: Final = 3
"""How often the message of one attempt is published again, into one Redis. One that goes on vanishing is taken by a worker
that is not Beatline's and claims nothing, or kills its worker before the claim: more of it would only execute it again."""
UNKNOWN_MS: Final = 24 * 3600 * 1000
"""A run that is in an index for so long and that PostgreSQL does not know is taken out of it."""
_REMEMBERED: Final = 100_000

_QUEUED: Final = """
    SELECT id, day, attempt, queue, coalesce(priority, 0) AS priority, queued_at, accepted_at FROM {schema}.runs
    WHERE state = 'queued' AND ended_at IS NULL AND message IS NOT NULL
      AND queued_at < :before AND (eta IS NULL OR eta < :before)
      AND accepted_at >= :after AND (accepted_at, id) > (:after, :after_id)
    ORDER BY accepted_at, id LIMIT :page
"""
_KNOWN: Final = """
    SELECT r.id, r.day, r.attempt, r.queue, coalesce(r.priority, 0) AS priority, r.queued_at, r.state
    FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id WHERE d.id = ANY(:ids)
"""
_MESSAGES: Final = """
    SELECT r.id, r.attempt, r.message
    FROM json_to_recordset(CAST(:rows AS json)) AS wanted (day date, id text, attempt integer)
    JOIN {schema}.runs r ON r.day = wanted.day AND r.id = wanted.id AND r.attempt = wanted.attempt
    WHERE r.state = 'queued' AND r.message IS NOT NULL
"""
_START: Final = (datetime.min.replace(tzinfo=UTC), "")

log = get_logger(__name__)


class _Run(NamedTuple):
    """A run that PostgreSQL knows as queued."""

    id: str
    day: date
    attempt: int
    queue: str
    priority: int
    queued_at: datetime


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A run that may have been taken along: since when it looks so, and since when it is in the index, which stays the
    same unless it is published again."""

    run: _Run
    since: float
    listed: float


class MissingMessages:
    """Publishes again what is queued and in no queue. Publishing what was not missing does no harm."""

    def __init__(self, installation: Installation, redis: Redis) -> None:
        self._installation = installation
        self._engine = open_engine(installation.settings)
        self._redis: Any = redis
        self._keys = installation.keys
        self._index = Index(redis, installation.keys)
        self._queues = tuple(known_queues(installation.settings.queues))
        self._low_first = installation.settings.priority_order == "low_first"
        self._grace = timedelta(seconds=installation.settings.lease_s)
        self._next = 0.0
        self._cursor = _START
        self._doubts: dict[tuple[str, int], _Doubt] = {}
        self._others: dict[str, int] = {}
        self._differs: dict[str, tuple[int, int]] = {}
        self._settled_at: dict[str, float] = {}
        self._published: Counter[tuple[str, int]] = Counter()
        self._published_in = ""

    def put_back(self, server: Server) -> None:
        """Look for them, every EVERY_S seconds at most, and sooner where a doubt is to be confirmed."""
        if monotonic_s() < self._next:
            return
        if self._published_in != server.data_set:
            self._published_in = server.data_set
            self._published.clear()  # a Redis that loses data takes a message along too
        self._confirm(server)
        more = self._look(server, utc_now() - self._grace)
        self._next = monotonic_s() + (0.0 if more else min(CONFIRM_S, EVERY_S) if self._doubts else EVERY_S)

    def _look(self, server: Server, before: datetime) -> bool:
        """Go through some runs. True: some were missing, so that others may be, and are not to wait."""
        more_is_gone = False
        looked = self._index.look(self._queues)
        unsettled: dict[str, list[_Run]] = {}
        doubted: dict[str, list[_Doubt]] = {}
        for page in self._pages(before):
            looked |= self._index.look({run.queue for run in page} - looked.keys())
            gone: list[_Run] = []
            for run, listed, passed in self._unexplained(page, looked):
                if listed is not None:
                    doubted.setdefault(run.queue, []).append(_Doubt(run, monotonic_s(), listed))
                elif passed:
                    gone.append(run)
                elif len(unsettled.setdefault(run.queue, [])) < PAGE:
                    unsettled[run.queue].append(run)
            more_is_gone |= self._publish(gone, server)
        for queue, waiting in looked.items():
            more, some = self._more(queue, waiting), doubted.get(queue, [])
            steady = self._differs_steadily(queue, more)
            if len(some) <= more:
                self._doubt(some)  # as many as were taken off the lists
            if unsettled.get(queue) or len(some) > max(0, more) or steady:
                self._settle(queue, unsettled.get(queue, []), before, server)
        return more_is_gone

    def _pages(self, before: datetime) -> Iterable[list[_Run]]:
        """The oldest queued runs, and then, from one look to the next, all others."""
        if self._cursor != _START:
            yield self._page(before, _START)[0]
        for _ in range(PAGES):
            runs, self._cursor = self._page(before, self._cursor)
            if runs:
                yield runs
            if self._cursor == _START:
                return

    def _page(self, before: datetime, after: tuple[datetime, str]) -> tuple[list[_Run], tuple[datetime, str]]:
        with self._engine.connect() as conn:
            rows = conn.execute(
                sql(conn, _QUEUED), {"before": before, "after": after[0], "after_id": after[1], "page": PAGE}
            ).all()
        reached = (rows[-1].accepted_at, rows[-1].id) if len(rows) == PAGE else _START
        return [_run(row) for row in rows], reached

    def _unexplained(
        self, page: Sequence[_Run], looked: Mapping[str, Waiting]
    ) -> Iterable[tuple[_Run, float | None, bool]]:
        """Those of which nothing says that they wait or were claimed; since when each is in the index, and whether its
        list has passed it."""
        listed = self._index.listed([(run.queue, run.id) for run in page])
        asked: list[tuple[_Run, float | None, bool]] = []
        for run, since in zip(page, listed, strict=True):
            key = list_key(self._keys, run.queue, min(run.priority, MAX_PRIORITY), low_first=self._low_first)
            passed = looked[run.queue].passed(key, run.queued_at)
            if since is None or (passed and self._more(run.queue, looked[run.queue]) > 0):
                asked.append((run, since, passed))
        free = self._unclaimed([run for run, _, _ in asked])
        return [one for one in asked if one[0].id in free]

    def _unclaimed(self, runs: Sequence[_Run]) -> frozenset[str]:
        return unclaimed(self._redis, self._keys, [(run.id, run.attempt) for run in runs])

    def _more(self, queue: str, waiting: Waiting) -> int:
        """How many more runs a queue's index names than its lists hold messages of such runs."""
        return waiting.runs - max(0, waiting.messages - self._others.get(queue, 0))

    def _differs_steadily(self, queue: str, more: int) -> bool:
        before, looks = self._differs.get(queue, (0, 0))
        came_no_closer = more * before > 0 and abs(more) >= abs(before)
        looks = 0 if more == 0 else looks + 1 if came_no_closer else 1
        self._differs[queue] = (more, looks)
        return looks >= STEADY

    def _settle(self, queue: str, unsettled: Sequence[_Run], before: datetime, server: Server) -> None:
        """Have the lists read: what is in none of them, and unclaimed, is missing."""
        if monotonic_s() < self._settled_at.get(queue, float("-inf")) + SETTLE_S:
            return
        self._settled_at[queue], self._differs[queue] = monotonic_s(), (0, 0)
        now_ms, self._others[queue] = self._index.settle(queue)
        listed = self._index.listed([(run.queue, run.id) for run in unsettled])
        absent = [run for run, since in zip(unsettled, listed, strict=True) if since is None]
        free = self._unclaimed(absent)
        self._publish([run for run in absent if run.id in free], server)
        self._sift(queue, now_ms, before)

    def _sift(self, queue: str, now_ms: int, before: datetime) -> None:
        """What the index names and no list holds: missing, or to be taken out of the index."""
        before_ms, offset = now_ms - int(MARGIN.total_seconds() * 1000), 0
        for _ in range(SIFTED):
            left = dict(self._index.left(queue, before_ms, offset))
            with self._engine.connect() as conn:
                known = {row.id: row for row in conn.execute(sql(conn, _KNOWN), {"ids": list(left)})} if left else {}
            free = self._unclaimed([_run(row) for row in known.values()])
            over = [
                run_id
                for run_id, since in left.items()
                if (_is_over(known[run_id], queue) if run_id in known else since < now_ms - UNKNOWN_MS)
            ]
            self._index.unlist(queue, over, before_ms)
            self._doubt(
                _Doubt(_run(row), monotonic_s(), left[row.id])
                for row in known.values()
                if row.id in free and row.id not in over and row.state == "queued" and row.queued_at < before
            )
            offset += len(left) - len(over)
            if len(left) < CALL:
                return

    def _doubt(self, doubts: Iterable[_Doubt]) -> None:
        for one in doubts:
            if len(self._doubts) < MOST_DOUBTS:
                self._doubts.setdefault((one.run.id, one.run.attempt), one)

    def _confirm(self, server: Server) -> None:
        """Publish what has been in doubt for a moment and is where it was: in the index, and with nobody."""
        due = [one for one in self._doubts.values() if one.since <= monotonic_s() - CONFIRM_S]
        for start in range(0, len(due), CALL):
            some = due[start : start + CALL]
            listed = self._index.listed([(one.run.queue, one.run.id) for one in some])
            same = [one.run for one, since in zip(some, listed, strict=True) if since == one.listed]
            free = self._unclaimed(same)
            self._publish([run for run in same if run.id in free], server)
            for one in some:
                self._doubts.pop((one.run.id, one.run.attempt), None)

    def _publish(self, runs: Sequence[_Run], server: Server) -> bool:
        if runs and measure(self._redis, self._keys).lag_s * 1000 > DOUBTED_AGE_MS:
            return False  # what has ended meanwhile may be forgotten in Redis, and not yet known in PostgreSQL
        published = 0
        for start in range(0, len(runs), PUBLISHED_AT_ONCE):
            some = [run for run in runs[start : start + PUBLISHED_AT_ONCE] if self._may_be_published(run)]
            wanted = [{"day": run.day.isoformat(), "id": run.id, "attempt": run.attempt} for run in some]
            with self._engine.connect() as conn:
                rows = conn.execute(sql(conn, _MESSAGES), {"rows": json.dumps(wanted)}).all()
            messages = [message for row in rows if (message := self._message(row, server)) is not None]
            publish_stored(self._installation, messages)
            self._published.update((message.run_id, message.attempt) for message in messages)  # of what Redis has taken
            published += len(messages)
            if messages:
                reach("reconcile.missing_published")
                first = messages[0]
                log.warning("missing_messages_published", queue=first.queue, count=len(messages), example=first.run_id)
        return published > 0

    def _may_be_published(self, run: _Run) -> bool:
        if len(self._published) > _REMEMBERED:
            self._published.clear()
        times = self._published[run.id, run.attempt]
        if times == MOST_TIMES:
            self._published[run.id, run.attempt] += 1  # told once
            hint = "does a worker that is not Beatline's serve this queue? Stop it, then retry the run"
            log.error("message_vanishes_unclaimed", run_id=run.id, queue=run.queue, published=MOST_TIMES, hint=hint)
        return times < MOST_TIMES

    def _message(self, row: Any, server: Server) -> StoredMessage | None:
        try:
            plain = self._installation.keyring.decrypt(bytes(row.message), bound_to=message_binding(row.id))
            return next_attempt(plain, row.attempt, server.epoch or 0)
        except (SecretError, ValueError) as exc:
            self._published[row.id, row.attempt] = MOST_TIMES + 1  # told once
            log.error("message_unreadable", run_id=row.id, error=str(exc))
            return None


def _run(row: Any) -> _Run:
    return _Run(row.id, row.day, row.attempt, row.queue, row.priority, row.queued_at)


def _is_over(row: Any, queue: str) -> bool:
    return row.state in ENDED or row.queue != queue
