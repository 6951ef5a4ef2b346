"""Artifacts in an S3-style store; one that is out is left alone for a while, so that each write does not wait for it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from beatline.artifacts.folder import path_of
from beatline.clock import monotonic_s
from beatline.errors import BeatlineError, TransientError
from beatline.outbound.objects import Bucket, StoreRefusedError, in_words

if TYPE_CHECKING:
    from obstore import ReadableFile
    from obstore.store import S3Store

_LEFT_ALONE_S: Final = 30.0
_PART_BYTES: Final = 5 * 2**20
_BUFFER_BYTES: Final = 2**20

_opened: dict[Bucket, Remote] = {}


class Remote:
    """Files by their SHA-256 in a bucket; safe to use from several threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._store: S3Store | None = None
        self._out_until_s = 0.0
        self._why = ""

    @property
    def name(self) -> str:
        """Its address, as rows name it."""
        return self._bucket.url

    def put(self, sha256: str, path: Path) -> None:
        """Upload a file, in parts if it is large. Raises TransientError or StoreRefusedError; at once if it is out."""
        import obstore

        left_s = self._out_until_s - monotonic_s()
        if left_s > 0:
            raise TransientError(f"{self._why} It is tried again in {left_s:.0f} s.")
        try:
            with in_words(self.name):
                obstore.put(self._open(), path_of(sha256), path, chunk_size=_PART_BYTES, max_concurrency=2)
        except (TransientError, StoreRefusedError) as exc:
            self._why, self._out_until_s = str(exc), monotonic_s() + _LEFT_ALONE_S
            raise

    def has(self, sha256: str, size_bytes: int) -> bool:
        """Whether the file is there, in its full length; False if that cannot be told now."""
        import obstore

        if self._out_until_s > monotonic_s():
            return False
        try:
            with in_words(self.name):
                return obstore.head(self._open(), path_of(sha256))["size"] == size_bytes
        except (FileNotFoundError, BeatlineError):
            return False

    def open(self, sha256: str) -> BinaryIO:
        """The file, read a buffer at a time. Raises FileNotFoundError, TransientError or StoreRefusedError."""
        import obstore

        with in_words(self.name):
            reader = obstore.open_reader(self._open(), path_of(sha256), buffer_size=_BUFFER_BYTES)
        return cast("BinaryIO", io.BufferedReader(_Reading(reader, self.name), _BUFFER_BYTES))

    def remove(self, sha256: str) -> None:
        """The file is not there afterwards."""
        import obstore

        with in_words(self.name):
            try:
                obstore.delete(self._open(), path_of(sha256))
            except FileNotFoundError as exc:
                if "NoSuchBucket" in str(exc):
                    raise

    def _open(self) -> S3Store:
        if self._store is None:
            self._store = self._bucket.open()
        return self._store


def remote(bucket: Bucket) -> Remote:
    """This process's way into a bucket: whether it is out is remembered."""
    return _opened.setdefault(bucket, Remote(bucket))


os.register_at_fork(after_in_child=_opened.clear)  # a parent's connections are not the child's


class _Reading(io.RawIOBase):
    """obstore's reader, as Python's files are."""

    def __init__(self, reader: ReadableFile, place: str) -> None:
        self._reader, self._place = reader, place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # typeshed has no name for what is given
        with in_words(self._place):
            found = bytes(self._reader.read(len(buffer)))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()
