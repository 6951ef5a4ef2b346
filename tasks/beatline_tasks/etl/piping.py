"""Rows from one database into another, as they come: one server writes while the other reads, and no row is kept here."""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Thread
from typing import IO, Final, cast

from beatline.errors import TransientError
from beatline_tasks.etl.session import Session

_BUFFER_BYTES: Final = 2**18


def stream(source: Session, query: str, session: Session, table: str, *, what: str) -> int:
    """Copy a query's rows into a table of another session; how many. Raises what either side raises."""
    read_end, write_end = os.pipe()
    sender = _Sender(source, query, write_end, what)
    with os.fdopen(read_end, "rb", _BUFFER_BYTES) as rows:
        sender.start()
        try:
            count = session.copy_in(table, rows, what=what)
        except BaseException:
            rows.close()  # or the sender would wait for a reader for ever
            source.cancel()
            raise
        finally:
            sender.join()
    if sender.error is not None:
        raise sender.error
    if count != sender.rows:
        raise TransientError(f"{what}: {sender.rows:,} rows were sent and {count:,} came.")
    return count


class _Sender(Thread):
    """Copies the rows into the pipe; whatever goes wrong there is in `error`."""

    def __init__(self, source: Session, query: str, write_end: int, what: str) -> None:
        super().__init__(name="etl-sender", daemon=True)
        self._source, self._query, self._what = source, query, what
        self._pipe = os.fdopen(write_end, "wb", _BUFFER_BYTES)
        self._abandoned = False
        self.rows = 0
        self.error: Exception | None = None

    def run(self) -> None:
        """The thread: send all, and close the pipe."""
        try:
            self.rows = self._source.copy_out(self._query, cast("IO[bytes]", self), what=self._what)
        except Exception as exc:  # noqa: BLE001  # it is raised where the rows are read
            self.error = exc
        finally:
            with suppress(BrokenPipeError):
                self._pipe.close()

    def write(self, data: bytes) -> int:
        """Take a row of the COPY. Once nobody reads it is dropped: an error here would leave the session in its COPY."""
        if not self._abandoned:
            try:
                self._pipe.write(data)
            except BrokenPipeError:
                self._abandoned = True
        return len(data)
