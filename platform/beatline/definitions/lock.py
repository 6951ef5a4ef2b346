"""One run of a definition at a time: an advisory lock of a PostgreSQL session that is used for nothing else.

The server frees it when the session ends, so a killed worker leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from beatline.errors import TransientError

if TYPE_CHECKING:
    from beatline.definitions.model import Definition
    from beatline.task.context import RunContext

BUSY: Final = "busy"
"""The result of a run that finds another run of its definition at work."""

_HELD_S: Final = 30
"""A worker that was lost holds its lock for as long as the server takes to notice."""

# A machine that vanished is noticed by the server in about half a minute; a long read is no idle session.
_SESSION: Final = (
    "SET idle_session_timeout TO 0; SET tcp_keepalives_idle TO 15; SET tcp_keepalives_interval TO 5; "
    "SET tcp_keepalives_count TO 3"
)
# The run's own lock is asked for first: whoever holds the definition's holds his own, so it tells whose that one is.
_TAKE: Final = text(
    "WITH own AS MATERIALIZED (SELECT pg_try_advisory_lock(hashtextextended(:own, 0)) AS free) "
    "SELECT free, pg_try_advisory_lock(hashtextextended(:name, 0)) AS taken FROM own"
)
_FREE: Final = text("SELECT pg_advisory_unlock_all()")


class DefinitionLock:
    """A lock that is held as long as its session lives."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def check(self) -> None:
        """Return only while the lock is held. Raises TransientError if its session was lost: then another may run."""
        try:
            self._conn.execute(text("SELECT 1"))
        except DBAPIError as exc:
            raise TransientError(
                "The connection that holds the definition's lock was lost: nothing more is written."
            ) from exc


@contextmanager
def definition_lock(engine: Engine, definition: Definition, run: RunContext) -> Generator[DefinitionLock | None]:
    """Hold the definition's lock; None if another run holds it.

    Raises TransientError if an earlier attempt of this run holds it: its worker is lost, or still believes to be at work.
    """
    name = f"beatline definition {definition.id}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.detach()  # not back into the pool: closing the session is what frees the lock for certain
        conn.execute(text(_SESSION))
        free, taken = conn.execute(_TAKE, {"name": name, "own": f"{name} run {run.run_id}"}).one()
        try:
            if not taken and not free:
                raise TransientError(f"Another attempt still holds {definition.called}.", retry_after_s=_HELD_S)
            yield DefinitionLock(conn) if taken else None
        finally:
            # The server ends a closed session in its own time, and until then the next run would be busy.
            if not conn.invalidated:
                with suppress(DBAPIError):
                    conn.execute(_FREE)
