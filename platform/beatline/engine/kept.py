"""Ends that Redis has taken and PostgreSQL may not have yet: kept, so that a Redis that loses data does not lose them.

How far the recorders are needs no key of its own. An entry leaves the stream only after the transaction that holds it was
committed, whichever recorder read it; what a slow or a dead one has in hand is pending, and still in the stream. So all
that was appended before the stream's first entry stands in PostgreSQL, and a renewal reads that id in passing.

But what a Redis lost is not in its stream either. So an end is let go only while the data set is the one it went into:
the server is the same (run id and replication id: restart, fail-over) and so is what it noted of its epoch's beginning
(FLUSHALL: the next claim, or a recorder, notes another). Else every kept end is sent again, and none is let go before it
was: whoever sends an end says which data set was known before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from beatline.logs import get_logger
from beatline.native import native_lock

if TYPE_CHECKING:
    from beatline.engine.claim import Lease

MOST_ENDS: Final = 20_000
MOST_BYTES: Final = 24 * 1024 * 1024
"""What a worker keeps at most, by count and by memory: a minute of 300 runs a second while no recorder drains."""
END_BYTES: Final = 450
"""What an end takes in memory beside the text of its event, measured on CPython 3.11; with its text, most take 0.9 KB."""

log = get_logger(__name__)

StreamId = tuple[int, int]


def parse_id(text: str) -> StreamId:
    """The id of a stream's entry, as it sorts."""
    ms, _, number = text.partition("-")
    return int(ms), int(number or 0)


@dataclass(frozen=True, slots=True)
class KeptEnd:
    """An end as it was sent: `said` is its event, `stream_id` where Redis put that."""

    lease: Lease
    state: Literal["ended", "closed"]
    said: str
    stream_id: StreamId

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return END_BYTES + len(self.said)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one renewal saw of Redis at one moment: which data set it is, and how far its stream has been drained."""

    epoch: int
    began: str
    """What is noted of the epoch's beginning."""
    server: str
    """Run id and replication id of the server; empty if it does not say them to this user."""
    first: StreamId | None
    last: StreamId

    @property
    def data_set(self) -> tuple[int, str, str]:
        """The same as long as nothing that Redis took can have been lost."""
        return self.epoch, self.began, self.server

    def has_recorded(self, entry: StreamId) -> bool:
        """Whether an entry of this data set stands in PostgreSQL."""
        return bool(self.server) and (entry < self.first if self.first else entry <= self.last)


class KeptEnds:
    """The kept ends of one worker, in order. Thread-safe. The oldest goes first where they are too many."""

    def __init__(self, most: int = MOST_ENDS, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._lock = native_lock()  # reentrant: a signal handler may end a request in the middle of us
        self._safe: deque[KeptEnd] = deque()
        self._again: deque[KeptEnd] = deque()
        self._bytes = 0
        self._generation = 0
        self._seen: Seen | None = None
        self._overflows = False

    def __len__(self) -> int:
        return len(self._safe) + len(self._again)

    @property
    def generation(self) -> int:
        """Which data set is known now: to be read before an end is sent, and given to `keep`."""
        return self._generation

    @property
    def seen(self) -> Seen | None:
        """What was seen last; None at first."""
        return self._seen

    @property
    def to_send(self) -> int:
        """How many must be sent again."""
        return len(self._again)

    def keep(self, end: KeptEnd, generation: int) -> None:
        """Keep an end that Redis took, and that was sent when `generation` was known."""
        with self._lock:
            (self._safe if generation == self._generation else self._again).append(end)
            self._bytes += end.size
            while self and (len(self) > self._most or self._bytes > self._most_bytes):
                self._bytes -= (self._again or self._safe).popleft().size
                self._tell_overflow()

    @property
    def newest(self) -> StreamId:
        """The newest that Redis took: to be read before Redis is looked at, and given to `see`."""
        with self._lock:
            return max((end.stream_id for end in self._safe), default=(0, 0))

    def see(self, seen: Seen, newest: StreamId | None = None) -> bool:
        """Let go what has been recorded. True: it is another data set, and all that is kept must be sent again.

        `newest` was kept before Redis was asked: what another thread ends meanwhile is not missing in what was seen.
        """
        newest = self.newest if newest is None else newest
        with self._lock:
            before, self._seen = self._seen, seen
            if before is None or before.data_set != seen.data_set or seen.last < newest:
                self._generation += 1
                self._again = deque(sorted((*self._again, *self._safe), key=lambda end: end.stream_id))
                self._safe.clear()
                return True
            gone = [end for end in self._safe if seen.has_recorded(end.stream_id)]
            if gone:
                self._safe = deque(end for end in self._safe if not seen.has_recorded(end.stream_id))
                self._bytes -= _size(gone)
                self._overflows = False
            return False

    def take(self, count: int) -> list[KeptEnd]:
        """The oldest of those that must be sent again; who takes them keeps them anew, or puts them back."""
        with self._lock:
            taken = [self._again.popleft() for _ in range(min(count, len(self._again)))]
            self._bytes -= _size(taken)
            return taken

    def put_back(self, taken: Sequence[KeptEnd]) -> None:
        """They could not be sent."""
        with self._lock:
            self._again.extendleft(reversed(taken))
            self._bytes += _size(taken)

    def _tell_overflow(self) -> None:
        if not self._overflows:
            self._overflows = True
            hint = "is a recorder running, and does it reach PostgreSQL? A Redis that loses data now may repeat runs"
            log.warning("kept_ends_overflow", kept=len(self), kept_bytes=self._bytes, hint=hint)


def _size(ends: Iterable[KeptEnd]) -> int:
    return sum(end.size for end in ends)
