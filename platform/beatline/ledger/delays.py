"""Delayed runs: sent when they are due, moved to another time.

A delay of over a minute waits here as a row in state *delayed*, in no queue and in nobody's memory. Every recorder has a
sender, and any number may be at work: rows are locked, and passed over by the others. Due is what PostgreSQL's clock says,
because it is one for all recorders: a machine whose own clock is wrong, or steps, sends nothing early or late.

A page of due rows becomes *accepted* in one transaction and is published in the next. So *delayed* means that nothing of
this attempt was ever in Redis, and such a row may be sent at once, also into a Redis that has just lost its data, where all
else waits a lease (see `reconcile`): whatever was or may have been published is *accepted*, and the relay's. Who dies in
between leaves rows that it publishes (again), and the claim drops what is double.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError
from sqlalchemy import Connection, Row, insert
from sqlalchemy.exc import SQLAlchemyError

from beatline.clock import utc_now
from beatline.engine.delay import with_eta
from beatline.engine.hurry import hurried
from beatline.engine.messages import StoredMessage, next_attempt
from beatline.engine.obituary import Obituary
from beatline.engine.publish import publish_stored
from beatline.errors import ConflictError, SecretError
from beatline.failpoints import reach
from beatline.ledger.apply import apply, message_binding
from beatline.ledger.database import sql
from beatline.ledger.epochs import Server, look
from beatline.ledger.events import Event
from beatline.ledger.history import find_run
from beatline.ledger.intake import Entry, Known
from beatline.ledger.model import audit
from beatline.ledger.states import EventKind, RunState
from beatline.ledger.store import mark_queued
from beatline.logs import get_logger
from beatline.secrets import mask_urls

if TYPE_CHECKING:
    from beatline.installation import Installation

TICK_S: Final = 0.5
"""How often it is looked for what was moved to now; what is due sooner is looked for when it is."""
AGAIN_S: Final = 0.05
"""What is due and was not sent is another sender's, most likely."""
AWAY_S: Final = 0.5
"""How long to wait for a server that does not answer."""
REDIS_S: Final = 3.0
"""How long Redis may take: rows are locked meanwhile."""
PAGE: Final = 500
MOST_UNTOLD: Final = 1000
"""Messages of expired runs that are kept until who waits for them was told."""
PAGE_BYTES: Final = 8 * 1024 * 1024
TRIES_S: Final = (0.0, 0.02, 0.1, 0.3)
"""Pauses before each try to publish. A look that found a row before we took it locks it once more, sees that it has
changed, and keeps it locked until its transaction ends; what is locked after all of them is published by a relay."""
EXPIRED: Final = "expired"
"""Celery's word for it, so that a run that expired while it was delayed reads like one that did so in its queue."""

_NEXT: Final = """
    SELECT EXTRACT(EPOCH FROM eta - clock_timestamp()) FROM {schema}.runs r
    WHERE state = 'delayed' AND id <> ALL(:unreadable)
      AND NOT EXISTS (SELECT 1 FROM {schema}.cancellations c WHERE c.run_id = r.id)
    ORDER BY eta LIMIT 1
"""
_DUE: Final = """
    SELECT day, id, attempt, task, queue, message, eta, expires <= now() AS is_over,
        now() AS now, EXTRACT(EPOCH FROM now() - eta) AS late_s
    FROM {schema}.runs r
    WHERE state = 'delayed' AND eta <= now() AND id <> ALL(:unreadable)
      AND NOT EXISTS (SELECT 1 FROM {schema}.cancellations c WHERE c.run_id = r.id)
    ORDER BY eta LIMIT :page FOR UPDATE OF r SKIP LOCKED
"""
# Those cancelled while Redis was away, which the reconciler ends: a page of them is not to hide what is behind it. The
# rows that were locked are looked at once more, for an order that was written while they were being found.
_CANCELLED: Final = "SELECT run_id FROM {schema}.cancellations WHERE run_id = ANY(:ids)"
# It keeps its `changed_at`: of *accepted* and *delayed* with the same time the former stays, if the event comes again.
_ACCEPT: Final = """
    UPDATE {schema}.runs SET state = 'accepted'
    WHERE day = ANY(CAST(:days AS date[])) AND id = ANY(:ids) AND state = 'delayed'
"""
_STILL_OURS: Final = """
    SELECT id FROM {schema}.runs
    WHERE day = ANY(CAST(:days AS date[])) AND id = ANY(:ids) AND state = 'accepted' FOR UPDATE SKIP LOCKED
"""
_HOLD: Final = """
    SELECT r.day, r.id, r.state, r.attempt, r.task, r.queue, r.eta, r.expires, r.message
    FROM {schema}.runs r JOIN {schema}.run_days d ON d.id = r.id AND d.day = r.day WHERE d.id = :id FOR UPDATE OF r
"""
_MOVE: Final = "UPDATE {schema}.runs SET eta = :eta, message = :message WHERE day = :day AND id = :id"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Moved:
    """A delayed run that was given another time; `expires` is when it is too late for it."""

    run_id: str
    before: datetime
    due: datetime
    expires: datetime | None


def hold(conn: Connection, run_id: str) -> Row[Any]:
    """A delayed run's row, locked until the transaction of `conn` ends: no sender takes it meanwhile.

    Raises ConflictError if it is not delayed, or not any more.
    """
    row = conn.execute(sql(conn, _HOLD), {"id": run_id}).one()
    if row.state != RunState.DELAYED:
        raise ConflictError(
            f"Run {run_id} is {row.state} and not delayed: `beatline runs list --state delayed` shows those that are."
        )
    return row


def move(installation: Installation, given: str, to: datetime, *, who: str) -> Moved:
    """Give a delayed run, whose id is given or begins so, another time; one that has passed sends it at once.

    Raises NotFoundError; ConflictError if it is not delayed; SecretError if its message does not open.
    """
    with installation.engine.begin() as conn:
        row = hold(conn, find_run(conn, given).id)
        bound, keyring = message_binding(row.id), installation.keyring
        # The message says it too: whoever publishes it again later takes it as it is.
        message = with_eta(keyring.decrypt(bytes(row.message), bound_to=bound), to)
        sealed = keyring.encrypt(message.encode(), bound_to=bound)
        conn.execute(sql(conn, _MOVE), {"eta": to, "message": sealed, "day": row.day, "id": row.id})
        conn.execute(
            insert(audit).values(
                at=utc_now(), who=who, action="move", kind="run", name=row.id,
                before={"eta": row.eta.isoformat()}, after={"eta": to.isoformat()},
            )
        )  # fmt: skip
    return Moved(row.id, row.eta, to, row.expires)


@dataclass(slots=True)
class _Page:
    """Rows that were taken: what is to be published, by id, and the messages of those that have expired."""

    rows: Sequence[Row[Any]]
    messages: dict[str, StoredMessage]
    expired: dict[str, bytes]


class Sender:
    """Sends delayed runs when they are due, from a thread of its own; outlives what it meets."""

    def __init__(self, installation: Installation, stop: threading.Event) -> None:
        self._installation = installation
        self._stop = stop
        self._obituary = Obituary(installation)
        self._unreadable: set[str] = set()
        self._untold: dict[str, bytes] = {}
        self._page = PAGE
        self._away = False

    def run(self) -> None:
        """Send what becomes due until told to stop."""
        while not self._stop.is_set():
            try:
                pause_s = self.round()
            except (RedisError, SQLAlchemyError) as exc:
                self._say_away(exc)
                pause_s = AWAY_S
            except Exception:
                log.exception("delays_not_sent", then="tries again")
                pause_s = AWAY_S
            self._stop.wait(pause_s)

    def round(self) -> float:
        """Send all that is due; how long to wait for the next. Raises RedisError or SQLAlchemyError: try again."""
        wait_s = self._next_in_s()
        if wait_s is not None and wait_s <= 0:
            while self._send_page(self._look()) and not self._stop.is_set():
                pass
            wait_s = AGAIN_S if (left_s := self._next_in_s()) is not None and left_s <= 0 else left_s
        elif self._untold:
            self._look()
            self._tell()
        if self._away:
            log.info("delays_sent_again")
        self._away = False
        return TICK_S if wait_s is None else min(TICK_S, wait_s)

    def _next_in_s(self) -> float | None:
        """When the next run is due, in seconds; None if none is delayed."""
        with self._installation.engine.connect() as conn:
            found = conn.execute(sql(conn, _NEXT), {"unreadable": list(self._unreadable)}).scalar()
        return None if found is None else float(found)

    def _look(self) -> Server:
        """The server that is to take the messages; that it answers is known before a row leaves its state."""
        with hurried(REDIS_S):
            return look(self._installation.redis, self._installation.keys)

    def _send_page(self, server: Server) -> bool:
        """Whether there may be more."""
        size = self._page
        page = self._take(server, size)
        for run_id, message in page.expired.items():
            log.info("delayed_run_expired", run_id=run_id)
            self._untold[run_id] = message
        if page.messages:
            reach("delays.taken")
            self._publish(page)
        self._tell()
        return len(page.rows) == size and bool(page.messages or page.expired)

    def _take(self, server: Server, size: int) -> _Page:
        """Have due runs leave their state: *accepted*, or ended where their expiry has passed."""
        with self._installation.engine.begin() as conn:
            rows = conn.execute(sql(conn, _DUE), {"page": size, "unreadable": list(self._unreadable)}).all()
            page = _Page(rows, {}, {})
            cancelled = set(conn.execute(sql(conn, _CANCELLED), {"ids": [row.id for row in rows]}).scalars())
            for row in rows:
                if row.id not in cancelled:
                    self._open(row, server, page)
            ends = [_expired(row) for row in rows if row.id in page.expired]
            apply(conn, ends, self._installation.keyring)
            if page.messages:
                conn.execute(sql(conn, _ACCEPT), _named(page))
        if rows:
            # A page of the largest messages would be 128 MB.
            mean = sum(len(row.message or b"") for row in rows) // len(rows)
            self._page = max(16, min(PAGE, PAGE_BYTES // max(1, mean)))
        return page

    def _tell(self) -> None:
        """Tell who waits for what has expired, until that fails: a try may take seconds, and runs become due meanwhile.

        The next ones are told once Redis answers again; the one that failed is not, because its message may be why.
        """
        if len(self._untold) > MOST_UNTOLD:
            log.error("expired_runs_not_told", count=len(self._untold), example=next(iter(self._untold)))
            self._untold.clear()
        while self._untold:
            run_id = next(iter(self._untold))
            if not self._obituary.tell_cancelled(self._untold.pop(run_id), EXPIRED):
                return

    def _open(self, row: Row[Any], server: Server, page: _Page) -> None:
        try:
            plain = self._installation.keyring.decrypt(bytes(row.message), bound_to=message_binding(row.id))
            if row.is_over:
                page.expired[row.id] = plain
            else:
                # It is due by PostgreSQL's clock: a worker whose own is behind is not to wait for it once more.
                page.messages[row.id] = next_attempt(with_eta(plain, None), row.attempt, server.epoch or 0)
        except (SecretError, ValueError, TypeError) as exc:
            # Excluded from now on, so that the runs behind it go on; a restart of the recorder tries it again.
            self._unreadable.add(row.id)
            log.error("message_unreadable", run_id=row.id, error=str(exc))

    def _publish(self, page: _Page) -> None:
        """Publish what was taken, and is not locked by a relay that does so."""
        left, sent = _named(page), 0
        for pause_s in TRIES_S:
            self._stop.wait(pause_s)
            with self._installation.engine.begin() as conn:
                ours = set(conn.execute(sql(conn, _STILL_OURS), left).scalars())
                with hurried(REDIS_S):
                    publish_stored(
                        self._installation, [page.messages[run_id] for run_id in left["ids"] if run_id in ours]
                    )
                reach("delays.published")
                mark_queued(conn, [(row.day, row.id) for row in page.rows if row.id in ours], utc_now())
            left["ids"] = [run_id for run_id in left["ids"] if run_id not in ours]
            sent += len(ours)
            if not left["ids"]:
                break
        latest_s = max(float(row.late_s) for row in page.rows)
        log.info("delayed_runs_sent", count=sent, late_s=round(latest_s, 3))

    def _say_away(self, exc: Exception) -> None:
        if not self._away:
            said = str(getattr(exc, "orig", None) or exc).strip().partition("\n")[0]
            log.warning("delays_wait", error=mask_urls(said), then="keeps trying, loses nothing")
        self._away = True


def _named(page: _Page) -> dict[str, list[Any]]:
    days: set[date] = {row.day for row in page.rows if row.id in page.messages}
    return {"days": sorted(days), "ids": sorted(page.messages)}


def _expired(row: Row[Any]) -> Known:
    end = Event(
        kind=EventKind.CANCELLED,
        run_id=row.id,
        attempt=row.attempt,
        day=row.day.isoformat(),
        at=row.now.timestamp(),
        task=row.task,
        queue=row.queue,
        reason=EXPIRED,
    )
    return Known(Entry("", ""), end, row.now.astimezone(UTC).isoformat(timespec="microseconds"), None, None, None)
