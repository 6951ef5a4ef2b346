"""Files of archived rows: written by COPY through gzip, and read back to see that they are what was written."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, BinaryIO, Final, Literal, Protocol, cast

from beatline_tasks.etl.session import Session

Format = Literal["csv", "jsonl"]
SUFFIX: Final[Mapping[Format, str]] = {"csv": ".csv.gz", "jsonl": ".jsonl.gz"}

_CHUNK_BYTES: Final = 2**18
_LEVEL: Final = 6
# In JSON a line break stands only between tokens, and the two signs nowhere: each row is one line, as it is.
_ONE_LINE: Final = "SELECT translate(CAST(row_to_json(asked) AS text), E'\\r\\n', '  ') FROM (\n{query}\n) AS asked"
_AS_IT_IS: Final = "(FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')"


@dataclass(frozen=True, slots=True)
class Written:
    """A written file, at its beginning; its SHA-256 and how many rows are in it."""

    file: BinaryIO
    sha256: str
    rows: int


@contextmanager
def open_file() -> Generator[BinaryIO]:
    """A file on the disk that nobody else sees, gone at the end."""
    with TemporaryFile() as file:
        yield cast("BinaryIO", file)


def write_rows(session: Session, query: str, file: BinaryIO, form: Format) -> Written:
    """Write a query's rows, compressed."""
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
        buffered = io.BufferedWriter(cast("io.RawIOBase", packed), _CHUNK_BYTES)
        out = cast("IO[bytes]", buffered)
        if form == "csv":
            rows = session.copy_out(query, out, "(FORMAT csv, HEADER)", what="The copy")
        else:
            rows = session.copy_out(_ONE_LINE.format(query=query), out, _AS_IT_IS, what="The copy")
        buffered.flush()
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    return Written(file, digest.hexdigest(), rows)


def read_back(file: BinaryIO, form: Format) -> tuple[str, int]:
    """The SHA-256 of a file and how many rows are in it; no rows if it cannot be unpacked."""
    digest = hashlib.sha256()
    try:
        with gzip.GzipFile(fileobj=_Hashed(file, digest), mode="rb") as packed:
            rows = _count(packed, form)
    except (EOFError, OSError, zlib.error):
        rows = 0
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest(), rows


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO, digest: _Digest) -> None:
        self._file, self._digest = file, digest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._digest.update(chunk)
        return chunk


def _count(packed: gzip.GzipFile, form: Format) -> int:
    if form == "jsonl":
        return sum(1 for _ in packed)
    # Not by the library, whose limit of a value's length is one for the whole process. PostgreSQL doubles a quote within
    # quotes, so a line ends a row if the quotes so far are even.
    rows, quotes = 0, 0
    for line in packed:
        quotes += line.count(b'"')
        rows += quotes % 2 == 0
    return rows - 1
