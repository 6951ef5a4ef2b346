"""What Redis remembers of runs, asked about many at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

    from beatline.names import Keys


def attempt_in(said: str | None) -> int:
    """The attempt a record says, 0 if it says none; one that no number can be read from is beyond them all."""
    try:
        return int(said or 0)
    except ValueError:  # Lua writes a large one as 1e+30
        return sys.maxsize


def unclaimed(redis: Redis, keys: Keys, runs: Sequence[tuple[str, int]]) -> frozenset[str]:
    """The runs (id, attempt) whose attempt no worker has claimed: a reserved one is still *queued* for PostgreSQL.

    Where an older attempt is leased, the message waits for its end in a worker's hands, and is none of them. One round trip.
    """
    client: Any = redis  # redis-py leaves much of itself untyped
    with client.pipeline(transaction=False) as pipe:
        for run_id, _ in runs:
            pipe.hmget(keys.run(run_id), "attempt", "state")
        records: list[list[str | None]] = pipe.execute() if runs else []
    return frozenset(
        run_id
        for (run_id, attempt), (known, state) in zip(runs, records, strict=True)
        if attempt_in(known) < attempt and state != "leased"
    )
