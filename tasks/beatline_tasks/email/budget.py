"""How much mail a process holds in memory at once, over all its threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final


class Budget:
    """Bytes that are lent out, first come first served. Who wants more than there are gets all of them, alone."""

    def __init__(self, total_bytes: int) -> None:
        self._total = self._left = total_bytes
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @property
    def left_bytes(self) -> int:
        """What is not lent."""
        return self._left

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    @contextmanager
    def lent(self, wanted_bytes: int, wait_s: float) -> Generator[bool]:
        """Hold as many bytes for the block; False, and none, if they do not come free in time. Not to be nested."""
        wanted = min(wanted_bytes, self._total)
        taken = self._take(wanted, wait_s)
        try:
            yield taken
        finally:
            if taken:
                with self._changed:
                    self._left += wanted
                    self._changed.notify_all()

    def _take(self, wanted: int, wait_s: float) -> bool:
        mark = object()
        with self._changed:
            self._queue.append(mark)
            try:
                # In order, or a large message would wait for ever while small ones pass it.
                taken = self._changed.wait_for(lambda: self._queue[0] is mark and self._left >= wanted, max(wait_s, 0))
                if taken:
                    self._left -= wanted
                return taken
            finally:
                self._queue.remove(mark)
                self._changed.notify_all()


READING: Final = Budget(128 * 2**20)
"""For what is read of mail servers: fifty threads with a message of 25 MiB each would take more than there is."""
