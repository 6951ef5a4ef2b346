"""What the feed served, written down by the feed itself: one line a request, only ever appended, unknown to the ledger."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Served:
    """A request as it was answered; `status` is 0 where there was no answer. `last`: no page follows."""

    at: float
    run: str
    attempt: int
    path: str
    status: int
    rows: int
    last: bool

    @property
    def completes(self) -> bool:
        """Whether it ended a sequence of pages: the last page, or nothing new since the last time."""
        return (self.status == 200 and self.last) or self.status == 304


class FeedLog:
    """Appends lines; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._file = path.open("a", encoding="utf-8")

    def append(self, served: Served) -> None:
        """Write one line through to the file; dropped once the log is closed."""
        with self._writing:
            if not self._file.closed:
                self._file.write(json.dumps(asdict(served)) + "\n")
                self._file.flush()

    def close(self) -> None:
        """End the log."""
        with self._writing:
            self._file.close()


def read_log(path: Path) -> list[Served]:
    """Every line of a log."""
    return [Served(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def completed_by_run(served: Iterable[Served]) -> dict[str, int]:
    """How many sequences of pages each run completed, over all its attempts."""
    counts: dict[str, int] = {}
    for one in served:
        if one.completes:
            counts[one.run] = counts.get(one.run, 0) + 1
    return counts
