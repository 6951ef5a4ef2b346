"""Rows side by side, each in a process with servers of its own: most of a trial's time is waiting."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent.parent
END_S: Final = 30.0


class Lanes:
    """Runs rows, so many at a time, and ends all of them when it is left."""

    def __init__(self, count: int, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._count = count
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closing = False

    def run(self, rows: Sequence[int]) -> Iterator[tuple[str, bool]]:
        """What each row printed, and whether it was ok, as they come to their ends."""
        with ThreadPoolExecutor(self._count, thread_name_prefix="chaos-lane") as pool:
            try:
                for one in as_completed([pool.submit(self._row, number) for number in rows]):
                    yield one.result()
            finally:
                self._end()

    def _row(self, number: int) -> tuple[str, bool]:
        with self._lock:
            if self._closing:
                return "", False
            # A session of its own, so that Ctrl-C reaches it once: from us, and not from the terminal too.
            process = subprocess.Popen(
                [sys.executable, "-m", "chaos", str(number), "--lane", *self._arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=TESTS, text=True, start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        said, _ = process.communicate()
        with self._lock:
            self._running.discard(process)
        return said, process.returncode == 0

    def _end(self) -> None:
        with self._lock:
            self._closing = True
            running = list(self._running)
        for process in running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
