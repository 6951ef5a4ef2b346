"""Artifacts in a folder: a file appears whole, on the disk, or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from beatline.errors import TransientError

_CHUNK_BYTES: Final = 1024 * 1024
_INCOMING: Final = "incoming"


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is on the disk, and that nobody finds by its content yet."""

    path: Path
    sha256: str
    size_bytes: int


def path_of(sha256: str) -> str:
    """Where a file lies in its store."""
    return f"{sha256[:2]}/{sha256}"


class Folder:
    """Files by their SHA-256 below `root`, which is made when the first one comes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def draft(self, source: bytes | BinaryIO | Path) -> Generator[Draft]:
        """The source on the disk, streamed, with its hash; gone at the end unless it was kept.

        Raises TransientError if the folder cannot be written: a full disk may be emptied.
        """
        path = self.root / _INCOMING / secrets.token_hex(16)
        try:
            with self._in_words():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                written = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            with written, _opened(source) as content:
                digest, size = hashlib.sha256(), 0
                while chunk := content.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    with self._in_words():
                        written.write(chunk)
                with self._in_words():
                    written.flush()
                    os.fsync(written.fileno())
            yield Draft(path, digest.hexdigest(), size)
        finally:
            with suppress(OSError):  # kept, and so not here any more; or the folder is no folder
                path.unlink()

    def keep(self, draft: Draft) -> None:
        """Put a draft in its place, for good. One that stands there already is the same file."""
        place = self.root / path_of(draft.sha256)
        with self._in_words():
            place.parent.mkdir(mode=0o700, exist_ok=True)
            draft.path.replace(place)
            for folder in (place.parent, self.root):
                _sync_folder(folder)

    def has(self, sha256: str, size_bytes: int) -> bool:
        """Whether the file is here, in its full length."""
        try:
            return (self.root / path_of(sha256)).stat().st_size == size_bytes
        except OSError:
            return False

    def open(self, sha256: str) -> BinaryIO:
        """The file, for reading. Raises FileNotFoundError."""
        return (self.root / path_of(sha256)).open("rb")

    def path(self, sha256: str) -> Path:
        """Where the file lies, or would lie."""
        return self.root / path_of(sha256)

    def remove(self, sha256: str) -> None:
        """The file is not here afterwards."""
        with self._in_words():
            self.path(sha256).unlink(missing_ok=True)

    def files(self) -> Iterator[Path]:
        """Every kept file."""
        for shelf in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            yield from sorted(path for path in shelf.iterdir() if path.name.startswith(shelf.name))

    def remove_drafts(self, before_s: float) -> int:
        """Remove what writers that died have left: drafts nobody has written to since then. How many there were."""
        count = 0
        for path in self.root.glob(f"{_INCOMING}/*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before_s:
                    path.unlink()
                    count += 1
        return count

    @contextmanager
    def _in_words(self) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            raise TransientError(f"The folder of artifacts {self.root} cannot be written: {exc.strerror}.") from exc


@contextmanager
def _opened(source: bytes | BinaryIO | Path) -> Generator[BinaryIO]:
    if isinstance(source, bytes):
        yield BytesIO(source)
    elif isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source  # its owner closes it


def _sync_folder(folder: Path) -> None:
    # Without this the name of a new file may be lost with the power.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
