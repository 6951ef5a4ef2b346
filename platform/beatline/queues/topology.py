"""The queues in one table: purpose, pool, processes, concurrency, prefetch, time limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Pool = Literal["prefork", "threads", "solo", "gevent"]


@dataclass(frozen=True, slots=True)
class Queue:
    """A named queue and how its workers run.

    `processes` is how many `celery worker` processes serve it on one machine; `concurrency` is slots in each;
    `prefetch` is how many messages a slot holds, the running one included. Limits are in seconds. Threads, gevent and
    solo cannot interrupt a task: there, time limits bound only the lease, and clients' own time-outs are the guard.
    """

    name: str
    purpose: str
    pool: Pool = "prefork"
    processes: int = 1
    concurrency: int = 2
    prefetch: int = 1
    soft_limit_s: int = 270
    hard_limit_s: int = 300


DEFAULT: Final = "default"

TOPOLOGY: Final[tuple[Queue, ...]] = (
    Queue(DEFAULT, "short tasks of any kind, and maintenance", concurrency=2, prefetch=4),
    Queue(
        "collect",
        "reads sources over the network into datasets",
        pool="threads",
        concurrency=8,
        prefetch=1,
        soft_limit_s=870,
        hard_limit_s=900,
    ),
    Queue("etl", "transforms datasets, archives", concurrency=2, soft_limit_s=3500, hard_limit_s=3600),
    Queue("report", "renders and sends reports", concurrency=2, soft_limit_s=870, hard_limit_s=900),
    Queue(
        "email",
        "polls mailboxes: much waiting, little work",
        pool="threads",
        concurrency=50,
        soft_limit_s=270,
        hard_limit_s=300,
    ),
    Queue("workflow", "steps that only start or join other steps", pool="threads", concurrency=4, prefetch=4),
    Queue(
        "heavy", "long or memory-hungry work, one at a time", concurrency=1, soft_limit_s=14_100, hard_limit_s=14_400
    ),
)
