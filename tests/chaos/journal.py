"""What senders, tasks and the injector of faults write down, outside of the system that is tried.

A folder with two parts: a log of lines, each appended in one write and fsynced, and the effect table, a file a key, which
takes a write only from a fence that is not older than the last. Whatever dies, what was written before stays.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from beatline.clock import monotonic_s

FOLDER: Final = "CHAOS_FOLDER"
"""The variable that tells a worker's tasks where the journal is."""


class Journal:
    """One trial's journal. Any number of processes write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log, self._effects = folder / "log", folder / "effects"

    @classmethod
    def of_environment(cls) -> Journal:
        """The journal that this process was told of."""
        return cls(Path(os.environ[FOLDER]))

    def make(self) -> None:
        """Make its folders."""
        self._effects.mkdir(parents=True)
        self._log.touch()

    def write(self, kind: str, key: str, **facts: Any) -> float:
        """Append a line, and return its time once it is on the disk."""
        at = monotonic_s()
        line = json.dumps({"at": at, "kind": kind, "key": key, **facts}) + "\n"
        with _appending(self._log) as file:
            os.write(file, line.encode())
            os.fsync(file)
        return at

    def effect(self, key: str, fence: int, execution: str) -> bool:
        """Take effect, as a guarded UPDATE does; False: a newer fence has written, so that nothing was written now."""
        path = self._effects / key
        with _appending(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with its holder, however that ends
            if any(row["fence"] > fence for row in _rows(path)):
                return False
            os.write(file, (json.dumps({"at": monotonic_s(), "fence": fence, "execution": execution}) + "\n").encode())
            os.fsync(file)
            return True

    def lines(self) -> list[Mapping[str, Any]]:
        """Every line so far, in the order in which they were written."""
        return list(_rows(self._log))

    def effects(self) -> dict[str, list[Mapping[str, Any]]]:
        """The effect table: what was taken for each key."""
        return {path.name: list(_rows(path)) for path in sorted(self._effects.iterdir())}


@contextmanager
def _appending(path: Path) -> Generator[int]:
    file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        yield json.loads(line)
