"""Rows on their way into a dataset, in PostgreSQL's COPY format: in memory while few, on disk when many.

No transaction is open while a source is read, however slow it is.
"""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import IO, Final, Self, cast

from beatline_tasks.collect.rows import Row

_IN_MEMORY_BYTES: Final = 2 * 2**20


class Batch:
    """Rows to be stored together, in the order in which they came; emptied when they are."""

    def __init__(self) -> None:
        self._file = self._new()
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Put one row behind the others."""
        self.rows += 1
        self._file.write("\t".join((str(self.rows), *row.fields, row.doc)).encode() + b"\n")

    def read(self) -> IO[bytes]:
        """All rows, from the first, for COPY FROM STDIN."""
        self._file.seek(0)
        return self._file

    def clear(self) -> None:
        """Forget the rows: they are stored."""
        self._file.close()
        self._file, self.rows = self._new(), 0

    def _new(self) -> IO[bytes]:
        return cast("IO[bytes]", SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))
