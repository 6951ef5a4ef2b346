"""A file that a process touches while it does its duty: what `beatline health` looks at.

Its name has the pid and, where the system tells it, when the process started: a pid comes again, in a container at each
start, and then the file of the dead one must not speak for the living.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from beatline.clock import monotonic_s


def started(pid: str) -> str | None:
    """When a process started, in the ticks of Linux since the machine did; None where that is not told."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # Its name stands in parentheses, and may hold blanks and parentheses itself: the 20th field after the last one.
    return said.rpartition(")")[2].split()[19]


class Pulse:
    """One process's sign of life, in `folder`; without a folder, none.

    `beat` raises nothing: a full disk must not stop what is healthy otherwise.
    """

    def __init__(self, folder: Path | None, duty: str) -> None:
        since = started(str(os.getpid()))
        name = f"{duty}.{os.getpid()}" if since is None else f"{duty}.{os.getpid()}.{since}"
        self._path = None if folder is None else folder / name
        self._state = ""

    def beat(self, state: str) -> None:
        """Say that the duty was done a moment ago, and in what state."""
        if self._path is None:
            return
        with suppress(OSError):
            if state != self._state or not self._path.exists():
                self._state = state
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.write_text(state, "utf-8")
        now = monotonic_s()
        with suppress(OSError):
            # As the time of the file: it needs no room. Of the monotonic clock: the other one may be set.
            os.utime(self._path, (now, now))
