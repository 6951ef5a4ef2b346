"""One poll of a mailbox at a time, over all workers: advisory locks of PostgreSQL, those of a process in one session.

`beatline.definitions.lock` takes a session for each lock. Fifty threads in each of several workers would take more
sessions than PostgreSQL has; the locks here are the same, so the two exclude each other.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from beatline.clock import monotonic_s
from beatline.errors import TransientError

_SESSION: Final = (
    "SET idle_session_timeout TO 0; SET tcp_keepalives_idle TO 15; SET tcp_keepalives_interval TO 5; "
    "SET tcp_keepalives_count TO 3"
)
_TAKE: Final = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_ALIVE: Final = text("SELECT 1")
_FREE: Final = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")


_IDLE_S: Final = 5.0
"""How long a session without locks is kept: the next poll is often a moment away, and a session costs as much as one."""


class _Locks:
    """The locks that this process holds on one engine. Their session ends soon after the last of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self._conn: Connection | None = None
        self._held: dict[UUID, object] = {}
        self._used_s = 0.0
        self._closer: threading.Timer | None = None

    def take(self, definition_id: UUID) -> object | None:
        """A mark of this lock; None if someone holds it, here or elsewhere."""
        with self._turn:
            if definition_id in self._held:  # PostgreSQL would give it to the same session again
                return None
            idle = self._conn is not None and not self._held
            try:
                taken = self._asked(definition_id)
            except DBAPIError:
                if not idle:
                    raise
                taken = self._asked(definition_id)  # it broke while it was idle: no lock was lost
            if taken:
                mark = self._held[definition_id] = object()
                return mark
            self._rest()
            return None

    def check(self, definition_id: UUID, mark: object) -> None:
        """Return only while the lock is held. Raises TransientError if its session was lost: then another may run."""
        with self._turn:
            if self._held.get(definition_id) is mark and self._conn is not None:
                try:
                    self._conn.execute(_ALIVE)
                except DBAPIError:
                    self._lose()
                else:
                    return
        raise TransientError("The connection that holds the mailbox's lock was lost: nothing more is written.")

    def free(self, definition_id: UUID, mark: object) -> None:
        """Give it back."""
        with self._turn:
            if self._held.get(definition_id) is not mark:
                return
            del self._held[definition_id]
            if self._conn is not None:
                try:
                    self._conn.execute(_FREE, _name(definition_id))
                except DBAPIError:
                    self._lose()
            self._rest()

    def close(self) -> None:
        """End the session, if it holds no lock."""
        with self._turn:
            if not self._held:
                self._close()

    def _asked(self, definition_id: UUID) -> bool:
        try:
            self._conn = self._conn or self._connect()
            return bool(self._conn.execute(_TAKE, _name(definition_id)).scalar_one())
        except DBAPIError:
            self._lose()
            raise

    def _connect(self) -> Connection:
        conn = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        conn.detach()  # not back into the pool: closing the session is what frees the locks for certain
        conn.execute(text(_SESSION))
        return conn

    def _lose(self) -> None:
        self._held.clear()
        self._close()

    def _close(self) -> None:
        if self._conn is not None:
            with suppress(DBAPIError):
                self._conn.close()
            self._conn = None

    def _rest(self) -> None:
        """Have the session closed if it stays without locks. One timer, however many polls come and go."""
        self._used_s = monotonic_s()
        if not self._held and self._conn is not None and self._closer is None:
            self._closer = threading.Timer(_IDLE_S, self._close_if_idle)
            self._closer.daemon = True
            self._closer.start()

    def _close_if_idle(self) -> None:
        with self._turn:
            self._closer = None
            if self._held:
                return
            if monotonic_s() - self._used_s >= _IDLE_S / 2:
                self._close()
            elif self._conn is not None:
                self._closer = threading.Timer(_IDLE_S, self._close_if_idle)
                self._closer.daemon = True
                self._closer.start()


_locks: dict[tuple[int, Engine], _Locks] = {}
_making = threading.Lock()


@atexit.register
def _close_all() -> None:
    for (process, _), locks in list(_locks.items()):
        if process == os.getpid():  # what a parent left here is its own
            locks.close()


class MailboxLock:
    """A lock that is held as long as its session lives."""

    def __init__(self, locks: _Locks, definition_id: UUID, mark: object) -> None:
        self._locks, self._id, self._mark = locks, definition_id, mark

    def check(self) -> None:
        """Return only while the lock is held. Raises TransientError if it was lost."""
        self._locks.check(self._id, self._mark)


@contextmanager
def mailbox_lock(engine: Engine, definition_id: UUID) -> Generator[MailboxLock | None]:
    """Hold the mailbox's lock; None if another poll holds it."""
    with _making:
        locks = _locks.setdefault((os.getpid(), engine), _Locks(engine))
    mark = locks.take(definition_id)
    if mark is None:
        yield None
        return
    try:
        yield MailboxLock(locks, definition_id, mark)
    finally:
        locks.free(definition_id, mark)


def _name(definition_id: UUID) -> dict[str, str]:
    return {"name": f"beatline definition {definition_id}"}
