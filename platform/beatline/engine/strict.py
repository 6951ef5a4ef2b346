"""`durable="strict"`: the end of a run is committed in PostgreSQL before Redis is told and its message acknowledged.

Until then its lease is held and renewed, and its message counts as taken; the slot is free. One thread takes all ends
that wait: it makes sure that their leases are ours still, writes them in one transaction, then tells Redis. A worker that
dies in between leaves a lease whose run has ended in PostgreSQL: the reconciler only cleans up.

A retry needs no such thing when its attempt closes: what must not be lost is the next attempt, so its message is
committed before it is published, by whoever asks for it. The attempt that ends so may then be forgotten.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from celery import current_app
from kombu.utils.json import dumps

from beatline.clock import monotonic_s, utc_now
from beatline.engine import headers as h
from beatline.engine.claim import Claims
from beatline.engine.delay import waits
from beatline.engine.held import End
from beatline.engine.lease import LeaseKeeper
from beatline.engine.messages import accepted_event
from beatline.failpoints import reach
from beatline.installation import Installation, connect_redis
from beatline.ledger.events import Event
from beatline.logs import get_logger
from beatline.native import call_native
from beatline.secrets import mask_urls

MOST: Final = 500
"""Ends in one transaction."""
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
STOP_S: Final = 5.0
"""How long a worker that stops waits for PostgreSQL to take the ends that wait."""

log = get_logger(__name__)


class Uncommitted:
    """What is to be done with a message once the end of its run is committed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._committed = False
        self._then: Callable[[], object] | None = None

    def then(self, settle: Callable[[], object]) -> None:
        """Do it when the end is committed, or now if it is."""
        with self._lock:
            if not self._committed:
                self._then = settle
                return
        settle()

    def committed(self) -> None:
        """The end is committed, or was refused: it needs its message no more."""
        with self._lock:
            self._committed, settle = True, self._then
        if settle is not None:
            settle()


@dataclass(frozen=True, slots=True)
class _Waiting:
    end: End
    uncommitted: Uncommitted


class StrictEnds:
    """The ends of one worker process that wait for their commit. Thread-safe."""

    def __init__(self, keeper: LeaseKeeper, installation: Installation) -> None:
        self._keeper, self._installation = keeper, installation
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._pause_s = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, end: End) -> Uncommitted:
        """Commit this end as soon as possible. Its lease is held until then, however long that takes."""
        waiting = _Waiting(end, Uncommitted())
        self._keeper.rest(end.lease)
        with self._changed:
            self._waiting[end.lease.fence] = waiting
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="beatline-strict", daemon=True)
                self._thread.start()
                atexit.register(self._stop_at_exit, os.getpid())  # before the keeper's, which was registered earlier
            self._changed.notify_all()
        return waiting.uncommitted

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Commit what waits, within the time. What could not be is told to Redis alone, like any other task's end.

        To leave its lease to expire instead would have it executed again, for certain.
        """
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting, timeout_s)
            left = list(self._waiting.values())
        for waiting in left:
            lease = waiting.end.lease
            log.error("strict_end_not_committed", run_id=lease.run_id, attempt=lease.attempt,
                      then="told to Redis alone, because this worker stops")  # fmt: skip
            self._settle(waiting)

    def _stop_at_exit(self, pid: int) -> None:
        if os.getpid() == pid:
            self.stop()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
                batch = list(islice(self._waiting.values(), MOST))
                if not batch:
                    return
            try:
                self._commit(batch)
            except Exception as exc:  # noqa: BLE001  # an end must not be lost to what nobody foresaw
                self._say_away(exc, len(batch))
                if self._stopping.wait(self._pause_s):
                    threading.Event().wait(FIRST_PAUSE_S)

    def _commit(self, batch: list[_Waiting]) -> None:
        from beatline.ledger.commit import commit  # only who has such tasks pays for SQLAlchemy

        gone = self._gone(batch)
        ours = [waiting for waiting in batch if waiting.end.lease.fence not in gone]
        checked = monotonic_s()
        half_s = self._installation.settings.lease_s / 2

        def still_ours() -> bool:
            """A commit that comes late could be that of a holder whose lease has passed to another."""
            return monotonic_s() - checked < half_s or not self._gone_meanwhile(ours)

        reach("strict.checked")
        events = [waiting.end.event for waiting in ours]
        if ours and not call_native(lambda: commit(self._installation, events, still_ours)):
            return  # looked at anew
        if self._pause_s:
            log.info("strict_ends_committed", count=len(ours))
            self._pause_s = 0.0
        reach("strict.committed")
        for waiting in batch:
            self._settle(waiting)

    def _gone(self, batch: list[_Waiting]) -> frozenset[int]:
        return self._keeper.confirm([waiting.end.lease for waiting in batch])

    def _gone_meanwhile(self, batch: list[_Waiting]) -> frozenset[int]:
        """In the thread that commits, which may be another than the keeper's connections belong to."""
        settings = self._installation.settings
        with closing(Claims(connect_redis(settings.redis_url), settings.keys, settings.lease_s)) as claims:
            return claims.renew([waiting.end.lease for waiting in batch]).gone

    def _settle(self, waiting: _Waiting) -> None:
        self._keeper.finish(waiting.end)
        waiting.uncommitted.committed()
        with self._changed:
            self._waiting.pop(waiting.end.lease.fence, None)
            self._changed.notify_all()

    def _say_away(self, exc: Exception, count: int) -> None:
        if not self._pause_s:
            said = str(getattr(exc, "orig", None) or exc).strip().partition("\n")[0]
            log.warning("strict_ends_wait", count=count, error=f"{type(exc).__name__}: {mask_urls(said)}",
                        then="keeps their leases, and tries until they are committed")  # fmt: skip
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)


_ends: dict[tuple[int, int], StrictEnds] = {}
_making: Final = threading.Lock()


def strict_ends_of(keeper: LeaseKeeper, installation: Installation) -> StrictEnds:
    """Where the strict ends of a keeper's leases are committed; made when first asked for."""
    key = (os.getpid(), id(keeper))
    with _making:
        ends = _ends.get(key)
        if ends is None:
            ends = _ends[key] = StrictEnds(keeper, installation)
        return ends


def stop_strict_ends(keeper: LeaseKeeper) -> None:
    """Before a keeper stops: commit the ends that wait. Stopping twice is once."""
    ends = _ends.pop((os.getpid(), id(keeper)), None)
    if ends is not None:
        ends.stop()


def commit_next(message: dict[str, Any], queue: str) -> None:
    """Commit the next attempt of the strict run that is executed here, before its message is published.

    Waits for PostgreSQL as long as the limits of the task let it. Raises KeyMissingError where messages cannot be sealed.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from beatline.ledger.commit import commit

    installation: Installation = current_app.conf["beatline"]
    event = _accepted(message, queue)
    pause_s = 0.0
    while True:
        try:
            call_native(lambda: commit(installation, [event], lambda: True))
        except SQLAlchemyError as exc:
            if not pause_s:
                log.warning("retry_waits_for_commit", run_id=event.run_id, error=mask_urls(str(exc).partition("\n")[0]))
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2 or FIRST_PAUSE_S)
            threading.Event().wait(pause_s)
        else:
            break
    message["headers"][h.STORED] = 1
    reach("strict.next_committed")


def _accepted(message: Mapping[str, Any], queue: str) -> Event:
    stored = {**message, "headers": {**message["headers"], h.STORED: 1}}
    delayed = waits(message["headers"].get("eta"), utc_now()) or None
    return replace(accepted_event(stored, queue, dumps(stored)), queued=None, delayed=delayed)
