"""The relay: publishes runs whose rows were committed and whose sender did not come to publish them.

Every recorder has one, in a thread of its own, and any number may be at work: rows are locked, and passed over by the
others. Whoever writes a run's row notifies in the same transaction; besides, the relay looks every second. A run that it
has seen *accepted* for GRACE_S it publishes, unless Redis knows it: then it lies in its queue or is claimed, and only its
event is on the way. So a sender that lives is not overtaken, and one that died costs its run two seconds.

Publishing twice is harmless as long as Redis knows what was claimed. Where it has lost data, a run that is *accepted* may
have been published, and claimed, before: it waits until the data set is settled (see `reconcile`). What was committed
after the relay had looked at all there was, in this data set, cannot have been in an earlier one, and is sent at once.
"""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import psycopg2
from redis.exceptions import RedisError
from sqlalchemy import Connection, Row
from sqlalchemy.exc import SQLAlchemyError

from beatline.clock import monotonic_s, utc_now
from beatline.engine.hurry import hurried
from beatline.engine.index import Index
from beatline.engine.messages import StoredMessage, next_attempt
from beatline.engine.publish import publish_stored
from beatline.errors import SecretError
from beatline.failpoints import reach
from beatline.ledger.apply import message_binding
from beatline.ledger.database import sql
from beatline.ledger.epochs import Server, look
from beatline.ledger.records import attempt_in
from beatline.ledger.store import mark_queued
from beatline.logs import get_logger

if TYPE_CHECKING:
    from redis import Redis

    from beatline.installation import Installation

CHANNEL: Final = "beatline_accepted"
"""What is notified with the name of the schema, when a run's row is committed."""
GRACE_S: Final = 0.8
"""So long its sender has to publish a run that was committed."""
LOOK_S: Final = 1.0
SOONEST_S: Final = 0.1
"""Between two looks, however often is notified."""
REDIS_S: Final = 3.0
AWAY_S: Final = 1.0
STOP_S: Final = 0.25
PAGE: Final = 100
LOOKED_AT: Final = 10_000

_ACCEPTED: Final = """
    SELECT day, id, queue, attempt FROM {schema}.runs
    WHERE state = 'accepted' AND ended_at IS NULL AND message IS NOT NULL AND id <> ALL(:unreadable)
    ORDER BY accepted_at LIMIT :most
"""
_LOCK: Final = """
    SELECT day, id, attempt, message FROM {schema}.runs
    WHERE (day, id) IN (SELECT day, id FROM json_to_recordset(CAST(:rows AS json)) AS new (day date, id text))
      AND state = 'accepted' AND ended_at IS NULL
    FOR UPDATE SKIP LOCKED
"""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A run that is accepted: since when it was seen, and the data set in which it was committed, None if unknown."""

    day: date
    queue: str
    attempt: int
    since: float
    data_set: str | None


class Relay:
    """What one relay knows of the runs that are accepted."""

    def __init__(self, installation: Installation, redis: Redis) -> None:
        self._installation = installation
        self._redis: Any = redis
        self._index = Index(redis, installation.keys)
        self._seen: dict[str, _Seen] = {}
        self._looked_in: str | None = None
        self._unreadable: set[str] = set()

    def round(self) -> float:
        """Publish what is due; seconds until there is something to do again.

        Raises RedisError or SQLAlchemyError if a server does not answer: then it is tried again.
        """
        with hurried(REDIS_S):
            server = look(self._redis, self._installation.keys)
        with self._installation.engine.connect() as conn:
            self._look(conn, server)
        if server.began is None or server.began.server != server.run_id:
            return LOOK_S  # its epoch is about to begin: a message without it would be in doubt
        now, settled = monotonic_s(), server.settled == server.data_set
        safe = {run_id: one for run_id, one in self._seen.items() if settled or one.data_set == server.data_set}
        due = [run_id for run_id, one in safe.items() if now - one.since >= GRACE_S]
        for start in range(0, len(due), PAGE):
            page = due[start : start + PAGE]
            known = self._known(page)
            self._publish([run_id for run_id in page if run_id not in known], server)
        waits = [one.since + GRACE_S - now for one in safe.values() if now - one.since < GRACE_S]
        return min([LOOK_S, *waits])

    def _look(self, conn: Connection, server: Server) -> None:
        rows = conn.execute(sql(conn, _ACCEPTED), {"most": LOOKED_AT, "unreadable": list(self._unreadable)}).all()
        born_in = server.data_set if self._looked_in == server.data_set else None
        now = monotonic_s()
        self._seen = {
            row.id: before
            if (before := self._seen.get(row.id)) is not None and before.attempt == row.attempt
            else _Seen(row.day, row.queue, row.attempt, now, born_in)
            for row in rows
        }
        # Where there is more than one look can hold, what comes to light later may have been there all along.
        self._looked_in = server.data_set if len(rows) < LOOKED_AT else None

    def _known(self, run_ids: Sequence[str]) -> set[str]:
        """Those that Redis knows already: in the index of their queue, or claimed since."""
        seen = [self._seen[run_id] for run_id in run_ids]
        with hurried(REDIS_S):
            listed = self._index.listed([(one.queue, run_id) for run_id, one in zip(run_ids, seen, strict=True)])
            with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hget(self._installation.keys.run(run_id), "attempt")
                claimed = pipe.execute()
        return {
            run_id
            for run_id, one, since_ms, attempt in zip(run_ids, seen, listed, claimed, strict=True)
            if since_ms is not None or attempt_in(attempt) >= one.attempt
        }

    def _publish(self, run_ids: Sequence[str], server: Server) -> None:
        if not run_ids:
            return
        wanted = [{"day": self._seen[run_id].day.isoformat(), "id": run_id} for run_id in run_ids]
        with self._installation.engine.begin() as conn:
            rows = conn.execute(sql(conn, _LOCK), {"rows": json.dumps(wanted)}).all()
            messages = [message for row in rows if (message := self._open(row, server.epoch or 0)) is not None]
            with hurried(REDIS_S):
                publish_stored(self._installation, messages)
            reach("reconcile.published")
            queued = {message.run_id for message in messages}
            mark_queued(conn, [(row.day, row.id) for row in rows if row.id in queued], utc_now())
        if messages:
            log.warning("accepted_runs_published", count=len(messages), example=messages[0].run_id)

    def _open(self, row: Row[Any], epoch: int) -> StoredMessage | None:
        try:
            plain = self._installation.keyring.decrypt(bytes(row.message), bound_to=message_binding(row.id))
            return next_attempt(plain, row.attempt, epoch)
        except (SecretError, ValueError) as exc:
            # Excluded from now on, so that the runs behind it go on; a restart of the recorder tries it again.
            self._unreadable.add(row.id)
            log.error("message_unreadable", run_id=row.id, error=str(exc))
            return None


class Relaying:
    """A relay in a thread of its own; outlives what it meets."""

    def __init__(self, installation: Installation, redis: Redis, stop: threading.Event) -> None:
        self._installation, self._stop = installation, stop
        self._relay = Relay(installation, redis)

    def run(self) -> None:
        """Relay until told to stop."""
        while not self._stop.is_set():
            try:
                with self._listening() as heard:
                    self._go_on(heard)
            except (RedisError, SQLAlchemyError, psycopg2.Error) as exc:
                log.debug("relay_waits", error=type(exc).__name__)  # the recorder says which server is away
                self._stop.wait(AWAY_S)
            except Exception:
                log.exception("runs_not_relayed", then="tries again")
                self._stop.wait(AWAY_S)

    def _go_on(self, heard: Any) -> None:
        while not self._stop.is_set():
            wait_s = self._relay.round()
            give_up = monotonic_s() + wait_s
            self._stop.wait(SOONEST_S)
            while (left := give_up - monotonic_s()) > 0 and not self._stop.is_set():
                if _notified(heard, min(left, STOP_S), self._installation.settings.database_schema):
                    break

    @contextmanager
    def _listening(self) -> Generator[Any]:
        """A connection that hears of committed rows. Behind a pooler that hands it on it hears nothing, and looks."""
        connection = self._installation.engine.raw_connection()
        try:
            driver: Any = connection.driver_connection
            driver.rollback()
            driver.autocommit = True
            with driver.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            yield driver
        finally:
            connection.invalidate()  # nobody else is to hear what this one asked for


def _notified(driver: Any, seconds: float, schema: str) -> bool:
    """Wait, and say whether a run of this schema was committed meanwhile."""
    if not driver.notifies and not select.select([driver], [], [], seconds)[0]:
        return False
    driver.poll()
    heard = [notice.payload for notice in driver.notifies]
    driver.notifies.clear()
    return schema in heard
