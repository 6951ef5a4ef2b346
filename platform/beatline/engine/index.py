"""The index of each queue: the runs whose messages wait there, so that one question answers for hundreds of them.

A run is in it from its publishing to its claim: what publishes adds it in the transaction that fills the list, and the
claim takes it out. A worker that takes a message off the list and dies leaves it in the index, which then names more runs
than the lists hold. Messages that no Beatline of this version published are in the lists alone. `look` counts both, and
where they differ `settle` has the lists read, piece by piece and by Redis itself: only counts come over the network.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from beatline.engine import headers as h
from beatline.engine.claim import script_source
from beatline.engine.messages import list_names, parked_key

if TYPE_CHECKING:
    from redis import Redis

    from beatline.names import Keys

CALL: Final = 500
"""How many runs are asked about in one call."""
READ: Final = 200
READ_BYTES: Final = 256 * 1024
"""How many messages one call of the script looks at, and after how much of them it ends: it holds up everybody else, for
a few milliseconds."""
MARGIN: Final = timedelta(seconds=5)
"""How far the clocks of two senders may differ."""
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC) + MARGIN
"""The first time from which MARGIN can be taken."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queue at one moment: the messages in its lists, the runs in its index, and when the oldest of each list was sent
    (None: it is empty), by the list's full key and with what is parked beside it."""

    messages: int
    runs: int
    oldest: Mapping[str, datetime | None]

    def passed(self, list_key: str, queued_at: datetime) -> bool:
        """Whether a message that was sent then is older than all in its list: first in, first out, so it has left it."""
        oldest = self.oldest.get(list_key)
        return oldest is None or queued_at < oldest - MARGIN


class Index:
    """The indexes of one installation's queues. Raises redis.RedisError where Redis does not answer."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis
        self._keys = keys
        self._index_list = self._redis.register_script(script_source("index_list"))
        self._unlist = self._redis.register_script(script_source("unlist"))

    def look(self, queues: Iterable[str]) -> dict[str, Waiting]:
        """Each queue, at one moment for all of it; one round trip."""
        names = list(queues)
        lists = {name: [self._keys.queue(part) for part in list_names(name)] for name in names}
        with self._redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.zcard(self._keys.index(name))
                for key in lists[name]:
                    for one in (key, parked_key(key)):
                        pipe.llen(one)
                        pipe.lindex(one, -1)
            said = iter(pipe.execute())
        return {name: _waiting(lists[name], said) for name in names}

    def listed(self, runs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Since when each run (queue, run id) is in the index of its queue, in ms; None: it is not in it."""
        asked: dict[str, list[str]] = {}
        for queue, run_id in runs:
            asked.setdefault(queue, []).append(run_id)
        with self._redis.pipeline(transaction=False) as pipe:
            for queue, ids in asked.items():
                pipe.zmscore(self._keys.index(queue), ids)
            answers: list[list[float | None]] = pipe.execute() if asked else []
        scores = {
            (queue, run_id): score
            for (queue, ids), found in zip(asked.items(), answers, strict=True)
            for run_id, score in zip(ids, found, strict=True)
        }
        return [scores[run] for run in runs]

    def settle(self, queue: str) -> tuple[int, int]:
        """Have all lists of a queue read, so that the index names every run of ours that waits there.

        From when on it does, in ms of Redis's clock: a run that is in the index since earlier is in no list. And how many
        messages name no run of ours, or one that another names too.
        """
        seconds, micros = self._redis.time()
        now, others = seconds * 1000 + micros // 1000, 0
        for name in list_names(queue):
            key = self._keys.queue(name)
            # What is parked comes back to the list, so it is looked for on both sides of that.
            others += sum(self._read(one, queue, now) for one in (parked_key(key), key))
            self._read(parked_key(key), queue, now)
        return now, others

    def left(self, queue: str, before_ms: int, offset: int) -> list[tuple[str, float]]:
        """Runs that are in the index since before then, with since when; CALL of them at most."""
        found = self._redis.zrangebyscore(
            self._keys.index(queue), "-inf", f"({before_ms}", start=offset, num=CALL, withscores=True
        )
        return [(str(run_id), float(score)) for run_id, score in found]

    def unlist(self, queue: str, runs: Sequence[str], before_ms: int) -> None:
        """Take runs out of the index that are in it since before then."""
        if runs:
            self._unlist([self._keys.index(queue)], [before_ms, *runs])

    def _read(self, key: str, queue: str, now_ms: int) -> int:
        at, others = 0, 0
        while True:
            looked_at, strange = self._index_list([key, self._keys.index(queue)], [at, READ, READ_BYTES, now_ms])
            others += int(strange)
            at += int(looked_at)
            if not looked_at:
                return others


def _waiting(lists: Sequence[str], said: Any) -> Waiting:
    runs, messages = int(next(said)), 0
    oldest: dict[str, datetime | None] = {}
    for key in lists:
        ends: list[datetime] = []
        for _ in ("list", "parked"):
            messages += int(next(said))
            end = next(said)
            if end is not None:
                ends.append(_published_at(end))
        oldest[key] = min(ends, default=None)
    return Waiting(messages, runs, oldest)


def _published_at(payload: str) -> datetime:
    """When the message at the end of a list was sent; the beginning of time if it does not say, or says it too deep."""
    try:
        return max(_BEGINNING, datetime.fromtimestamp(float(json.loads(payload)["headers"][h.PUBLISHED]), UTC))
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return _BEGINNING
