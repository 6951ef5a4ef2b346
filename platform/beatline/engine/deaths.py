"""What to say of an attempt that cost its pool process: how it died, and how much memory it had taken."""

from __future__ import annotations

import re
import resource
import sys
from typing import Final

from billiard.exceptions import TimeLimitExceeded, WorkerLostError

_HOW: Final = re.compile(r"prematurely: (.*) Job: ")
"""billiard's words around what ended a process: `signal 9 (SIGKILL)`, `exitcode 70`."""
_PER_MB: Final = 1024 * 1024 if sys.platform == "darwin" else 1024
"""`ru_maxrss` counts bytes on macOS and KiB on Linux."""


def largest_child_mb() -> int:
    """The peak memory of the largest process, of all this one has had as children and that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // _PER_MB


def death_reason(exc: object, largest_before_mb: int) -> str:
    """Why an attempt ended with its process; `largest_before_mb` is what `largest_child_mb` said when it began.

    The system keeps one peak for all children that have ended. Only if that grew meanwhile is it this process's own (or
    that of one that was replaced just then); else it took less.
    """
    if isinstance(exc, TimeLimitExceeded):
        return f"it ran into its hard time limit of {exc.args[0]:g} s"
    how = _HOW.search(str(exc)) if isinstance(exc, WorkerLostError) else None
    peak_mb = largest_child_mb()
    said = "peak memory" if peak_mb > largest_before_mb else "at most"
    return f"its pool process died: {how[1] if how else exc}, {said} {peak_mb:,} MB"
