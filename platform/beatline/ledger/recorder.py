"""The recorder: brings events from Redis into PostgreSQL, keeps epoch, partitions and lost runs in order, sends delays.

It may die anywhere. An entry leaves Redis only after the transaction that holds it was committed, and applying it once
more changes nothing. Any number of recorders may run; one of them reconciles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from beatline.clock import monotonic_s, utc_today
from beatline.errors import SchemaError, ServiceError
from beatline.failpoints import reach
from beatline.installation import connect_redis
from beatline.ledger import partitions
from beatline.ledger.database import LOCK_NOT_AVAILABLE, check_schema, open_engine, place, sqlstate
from beatline.ledger.delays import Sender
from beatline.ledger.epochs import Epochs, look
from beatline.ledger.intake import Entry
from beatline.ledger.reconcile import Reconciler
from beatline.ledger.relay import Relaying
from beatline.ledger.stream import COUNT, EventStream
from beatline.ledger.write import write
from beatline.logs import get_logger
from beatline.pulse import Pulse
from beatline.secrets import mask_urls

if TYPE_CHECKING:
    from beatline.installation import Installation

BLOCK_MS: Final = 500
LINGER_S: Final = 0.08
"""A batch that is not full waits this long for more: rows written one by one cost as much as fifty at a time."""
UPKEEP_S: Final = 1.0
LOOKS_A_LEASE: Final = 5
"""How often a lease is looked after in its time, at least: half of it without a look proves nothing (see `Sight`)."""
PARTITIONS_S: Final = 600.0
SENDING_ENDS_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0

log = get_logger(__name__)


class Outage:
    """Says once that a server is away, and once that it is back; the pauses between tries grow."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._pause_s = 0.0

    def pause_s(self, exc: Exception) -> float:
        """How long to wait before the next try."""
        if not self._pause_s:
            said = str(getattr(exc, "orig", None) or exc).strip().partition("\n")[0]
            log.warning("server_away", server=self._server, error=mask_urls(said), then="keeps trying, loses nothing")
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
        return self._pause_s

    def over(self) -> None:
        """The server answered."""
        if self._pause_s:
            log.info("server_back", server=self._server)
        self._pause_s = 0.0


class Recorder:
    """One recorder process; `run` returns soon after `stop` was set."""

    def __init__(self, installation: Installation, stop: threading.Event) -> None:
        settings = installation.settings
        # An entry that is no UTF-8 must be read, to be parked.
        self._redis = connect_redis(settings.redis_url, encoding_errors="backslashreplace")
        self._engine = open_engine(settings)
        self._keyring = installation.keyring
        self._settings = settings
        self._stop = stop
        self._stream = EventStream(self._redis, settings.keys)
        self._epochs = Epochs(self._engine, self._redis, settings.keys)
        self._reconciler = Reconciler(installation, self._redis)
        self._sender = Sender(installation, stop)
        self._relaying = Relaying(installation, self._redis, stop)
        self._redis_outage = Outage("Redis")
        self._postgres_outage = Outage(f"PostgreSQL at {place(settings)}")
        self._pulse = Pulse(settings.health_folder, "recorder")
        self._upkeep_s = min(UPKEEP_S, settings.lease_s / LOOKS_A_LEASE)
        self._block_ms = max(1, min(BLOCK_MS, int(self._upkeep_s * 1000 / 2)))
        self._next_upkeep = self._next_partitions = 0.0

    def run(self) -> None:
        """Record until told to stop. Raises SchemaError if the schema is newer than this code."""
        if not self._wait_for_schema():
            return
        log.info("recorder_started")
        sending = threading.Thread(target=self._sender.run, name="beatline-delays", daemon=True)
        sending.start()
        relaying = threading.Thread(target=self._relaying.run, name="beatline-relay", daemon=True)
        relaying.start()
        while not self._stop.is_set():
            if self._attempt(self._round):
                self._pulse.beat("drained")
        sending.join(SENDING_ENDS_S)
        relaying.join(SENDING_ENDS_S)
        try:
            self._stream.leave()
        except RedisError:
            log.info("left_without_word", reason="Redis does not answer")
        log.info("recorder_stopped")

    def _wait_for_schema(self) -> bool:
        said = ""
        while not self._stop.is_set():
            try:
                check_schema(self._settings)
            except SchemaError as exc:
                if exc.state == "newer":
                    raise
                problem = str(exc)
            except ServiceError as exc:
                problem = str(exc)
            else:
                return True
            if problem != said:
                log.warning("recorder_waits", reason=problem)
                said = problem
            self._stop.wait(1.0)
        return False

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do it; where a server is away, say so once and wait. False: it was not done."""
        try:
            work()
        except RedisError as exc:
            self._reconciler.lost_sight()
            self._stop.wait(self._redis_outage.pause_s(exc))
            return False
        except SQLAlchemyError as exc:
            self._stop.wait(self._postgres_outage.pause_s(exc))
            return False
        return True

    def _round(self) -> None:
        if monotonic_s() >= self._next_upkeep:
            self._next_upkeep = monotonic_s() + self._upkeep_s  # first, so that what fails here never stops the reading
            self._upkeep()
        entries = self._stream.read(block_ms=self._block_ms)
        self._redis_outage.over()
        if entries and len(entries) < COUNT:
            self._stop.wait(LINGER_S)
            entries += self._stream.read(room=COUNT - len(entries))
        self._bring_home(entries)

    def _bring_home(self, entries: list[Entry]) -> None:
        if not entries:
            return
        reach("recorder.read")
        # Kept in hand while PostgreSQL is away: they are pending in Redis too, should this process end.
        while not self._attempt(lambda: self._write(entries)):
            if self._stop.is_set():
                return
        reach("recorder.committed")
        self._stream.done(entries)
        reach("recorder.removed")

    def _write(self, entries: list[Entry]) -> None:
        write(self._engine, entries, self._keyring)
        self._postgres_outage.over()

    def _upkeep(self) -> None:
        server = look(self._redis, self._settings.keys)
        epoch = self._epochs.keep(server)
        if epoch is not None:
            log.info("epoch_began", epoch=epoch, redis_run_id=server.run_id)
        if monotonic_s() >= self._next_partitions:
            self._make_partitions()
        while orphans := self._stream.orphans():
            self._bring_home(orphans)
            if self._stop.is_set():
                return
        self._reconciler.round(server)
        self._postgres_outage.over()

    def _make_partitions(self) -> None:
        try:
            with self._engine.begin() as conn:
                # Whoever waits for this lock stops every writer behind it: better to try again in a second.
                conn.execute(text("SET LOCAL lock_timeout TO '2s'"))
                made = partitions.ensure(conn, utc_today(), behind=self._settings.history_days - 1)
        except DBAPIError as exc:
            if sqlstate(exc) != LOCK_NOT_AVAILABLE:
                raise
            log.info("partitions_wait", reason="the default partition is in use")
            return
        self._next_partitions = monotonic_s() + PARTITIONS_S
        if made:
            log.info("partitions_made", names=made)
