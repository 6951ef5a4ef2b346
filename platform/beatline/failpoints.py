"""Places where a test can have a process die. Inert unless BEATLINE_TEST_FAILPOINT names one.

The value is the name of a place, or `name:3` for the third time it is reached.
"""

from __future__ import annotations

import os
import signal
from typing import Final

_PLACE, _, _TIMES = os.environ.get("BEATLINE_TEST_FAILPOINT", "").partition(":")
_left: Final = [int(_TIMES or 1)]


def reach(place: str) -> None:
    """Die here by SIGKILL, if a test asked for it."""
    if place != _PLACE:
        return
    _left[0] -= 1
    if _left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
