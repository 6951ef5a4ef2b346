"""What a prefork pool keeps when the connection to Redis is lost: every run that it has begun to hand to a process.

Celery's pool throws away what no process is known to have accepted, for the broker would deliver it again. A claimed
message is not delivered again, and a process may have begun it: its word is only unread. Its end would find nobody, its
lease would expire, and it would be executed once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def keep_what_is_handed_over(pool: Any) -> None:
    """Have a prefork pool throw away only what it has written nothing of. Once per pool; any other has nothing to keep."""
    flush: Callable[[], None] | None = getattr(pool, "__dict__", {}).get("flush")
    if flush is None or hasattr(flush, "keeps"):
        return
    cache: dict[Any, Any] = pool._pool._cache

    def flush_the_rest() -> None:
        # What counts as accepted is not thrown away, and what is half written is written to its end.
        written = [job for job in tuple(cache.values()) if not job._accepted and job._write_to is not None]
        for job in written:
            job._accepted = True
        try:
            flush()
        finally:
            for job in written:
                job._accepted = False

    flush_the_rest.keeps = True  # type: ignore[attr-defined]  # a function may carry a mark
    pool.flush = flush_the_rest


def in_pool(pool: Any) -> frozenset[str] | None:
    """The runs that a prefork pool has after it was flushed; None for a pool that keeps all that it was given."""
    if getattr(pool, "__dict__", {}).get("flush") is None:
        return None
    return frozenset(str(job.correlation_id) for job in tuple(pool._pool._cache.values()))
