"""The ledger's stream as a recorder sees it: entries are read in batches, and removed once they stand in PostgreSQL."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import ResponseError

from beatline.ledger.events import FIELD
from beatline.ledger.intake import Entry

if TYPE_CHECKING:
    from redis import Redis

    from beatline.names import Keys

GROUP: Final = "recorder"
COUNT: Final = 500
BATCH_BYTES: Final = 8 * 1024 * 1024
ORPHANED_MS: Final = 5_000
"""An entry read this long ago and not removed belongs to a recorder that died, or that waits for PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Lag:
    """What has not reached PostgreSQL yet: how many events, and the age of the oldest in seconds."""

    events: int
    lag_s: float


def measure(redis: Redis, keys: Keys) -> Lag:
    """How far the ledger is behind. Entries are removed when applied, so the first one is the oldest."""
    client: Any = redis  # redis-py leaves much of itself untyped
    with client.pipeline(transaction=True) as pipe:
        pipe.xlen(keys.events)
        pipe.xrange(keys.events, count=1)
        pipe.time()
        events, first, (seconds, micros) = pipe.execute()
    if not first:
        return Lag(0, 0.0)
    age_ms = seconds * 1000 + micros // 1000 - int(first[0][0].partition("-")[0])
    return Lag(events, max(0.0, age_ms / 1000))


class EventStream:
    """One consumer of the group. An entry that was read stays pending until `done`, and outlives its reader."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis
        self._key = keys.events
        self._name = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self._count = COUNT

    def ensure_group(self) -> None:
        """Make the stream and its group, from the first entry on, unless they are there."""
        try:
            self._redis.xgroup_create(self._key, GROUP, id="0", mkstream=True)
        except ResponseError as exc:
            if not str(exc).startswith("BUSYGROUP"):
                raise

    def read(self, *, block_ms: int | None = None, room: int | None = None) -> list[Entry]:
        """New entries, at most `room`; waits up to `block_ms` for the first one."""
        count = self._count if room is None else min(room, self._count)
        try:
            answer = self._redis.xreadgroup(GROUP, self._name, {self._key: ">"}, count=count, block=block_ms)
        except ResponseError as exc:
            if not str(exc).startswith("NOGROUP"):
                raise
            self.ensure_group()  # Redis lost its data
            return []
        entries = _entries(_only_stream(answer))
        self._adapt(entries)
        return entries

    def orphans(self) -> list[Entry]:
        """Entries that were read by a recorder that did not bring them home."""
        try:
            answer = self._redis.xautoclaim(self._key, GROUP, self._name, ORPHANED_MS, count=self._count)
        except ResponseError as exc:
            if not str(exc).startswith("NOGROUP"):
                raise
            return []
        return _entries(answer[1])

    def done(self, entries: Iterable[Entry]) -> None:
        """Remove entries that stand in PostgreSQL."""
        ids = [entry.stream_id for entry in entries]
        if ids:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(self._key, GROUP, *ids)
                pipe.xdel(self._key, *ids)
                pipe.execute()

    def leave(self) -> None:
        """Take this consumer out of the group, unless it would take pending entries along."""
        mine = [c for c in self._redis.xinfo_consumers(self._key, GROUP) if c["name"] == self._name]
        if mine and mine[0]["pending"] == 0:
            self._redis.xgroup_delconsumer(self._key, GROUP, self._name)

    def _adapt(self, entries: Sequence[Entry]) -> None:
        # Messages of 256 KB would make 128 MB of a full batch.
        if entries:
            size = sum(len(entry.payload) for entry in entries) // len(entries)
            self._count = max(16, min(COUNT, BATCH_BYTES // max(1, size)))


def _only_stream(answer: Any) -> Any:
    """The entries in an answer of XREADGROUP: {key: [entries]} in protocol 3, [[key, entries]] in protocol 2."""
    if not answer:
        return ()
    return cast("Any", answer)[0][1] if isinstance(answer, list) else answer.popitem()[1][0]


def _entries(found: Iterable[Any]) -> list[Entry]:
    # An entry without our field is an event all the same: an unreadable one, which gets parked.
    return [
        Entry(stream_id, cast("dict[str, str]", fields).get(FIELD, ""))
        for stream_id, fields in found
        if stream_id is not None and fields is not None
    ]
