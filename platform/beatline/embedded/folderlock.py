"""An exclusive lock on a folder that ends with the process that holds it, however that process ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from beatline.clock import monotonic_s

_POLL_S: Final = 0.05


class FolderLock:
    """A flock on a file. Whoever inherits the descriptor holds it too, so a server can keep its own folder locked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The open descriptor, to be passed on to a server. Raises RuntimeError before acquire()."""
        if self._fd is None:
            raise RuntimeError(f"the lock {self._path} is not held")
        return self._fd

    def acquire(self, wait_s: float = 0.0) -> bool:
        """Take the lock, waiting that long for its holder to go away; False if it stayed."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = monotonic_s() + wait_s
        while not _try_lock(fd, fcntl.LOCK_EX):
            if monotonic_s() >= give_up:
                os.close(fd)
                return False
            time.sleep(_POLL_S)
        self._fd = fd
        return True

    def release(self) -> None:
        """Close our descriptor; the lock ends with the last process that has it open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on this file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two who ask at once do not take each other for the holder.
        return not _try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
