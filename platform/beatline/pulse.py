"""A file that a process touches while it does its duty: what `beatline health` looks at."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from beatline.clock import monotonic_s


class Pulse:
    """One process's sign of life, in `folder`; without a folder, none.

    `beat` raises nothing: a full disk must not stop what is healthy otherwise.
    """

    def __init__(self, folder: Path | None, duty: str) -> None:
        self._path = None if folder is None else folder / f"{duty}.{os.getpid()}"
        self._state = ""

    def beat(self, state: str) -> None:
        """Say that the duty was done a moment ago, and in what state."""
        if self._path is None:
            return
        if state != self._state or not self._path.exists():
            self._state = state
            with suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.write_text(state, "utf-8")
        now = monotonic_s()
        with suppress(OSError):
            # As the time of the file: it needs no room. Of the monotonic clock: the other one may be set.
            os.utime(self._path, (now, now))
