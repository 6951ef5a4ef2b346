"""Who serves what at this moment: the workers that answer, those that only hold leases, and how long the queues are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beatline.engine.messages import list_names, parked_key

if TYPE_CHECKING:
    from celery import Celery
    from redis import Redis

    from beatline.names import Keys

PATIENCE_S: Final = 1.0
MOST_LEASES: Final = 10_000
LEAKED: Final = "leaked_slots"
"""The name, in a worker's statistics, of how many of its slots are held by runs that hang."""

PAUSED: Final = "paused_queues"
DRAINING: Final = "draining"
"""The names, in a worker's statistics, of the queues it leaves because they are paused, and of whether it drains."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process. One that does not answer may be busy (solo pools cannot answer while they run), frozen or dead."""

    name: str
    queues: tuple[str, ...]
    pool: str | None
    slots: int | None
    pid: int | None
    leases: int
    ended: int | None
    up_s: float | None
    answers: bool
    leaked: int | None
    """Slots held by runs that hang, where the worker says it."""
    paused: tuple[str, ...] = ()
    """Queues of its own from which it takes nothing, because they are paused."""
    draining: bool | None = None
    """Whether it takes nothing any more, and ends when nothing runs, where the worker says it."""


def workers(app: Celery, redis: Redis, keys: Keys) -> list[Worker]:
    """Every worker that answers within a second, or holds a lease that has not expired; by name."""
    control: Any = app.control
    leases = lease_counts(redis, keys)
    with ThreadPoolExecutor(2) as both:
        asked = {what: both.submit(_ask, control, what) for what in ("stats", "active_queues")}
    stats, queues = (asked[what].result() for what in ("stats", "active_queues"))
    return [
        _worker(name, stats.get(name), queues.get(name, ()), leases[name])
        for name in sorted({*stats, *queues, *leases})
    ]


def lease_counts(redis: Redis, keys: Keys) -> Counter[str]:
    """How many live leases each worker holds."""
    client: Any = redis  # redis-py leaves much of itself untyped
    seconds, micros = client.time()
    held = client.zrangebyscore(keys.leases, seconds * 1000 + micros // 1000, "+inf", start=0, num=MOST_LEASES)
    with client.pipeline(transaction=False) as pipe:
        for run_id in held:
            pipe.hget(keys.run(run_id), "worker")
        return Counter(worker for worker in pipe.execute() if worker)


def lengths(redis: Redis, keys: Keys, queues: Iterable[str]) -> Mapping[str, int]:
    """How many messages wait in each queue, over all its priorities, for PostgreSQL's word too."""
    names = list(queues)
    client: Any = redis
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            for part in list_names(name):
                pipe.llen(keys.queue(part))
                pipe.llen(parked_key(keys.queue(part)))
        counts = iter(pipe.execute())
    return {name: sum(next(counts) + next(counts) for _ in list_names(name)) for name in names}


def unacknowledged(redis: Redis, keys: Keys) -> int:
    """How many messages workers have taken and not acknowledged: running, reserved, or taken by a worker that died.

    A claimed message is counted by its lease, any other (of a stock worker, say) by kombu's book.
    """
    client: Any = redis
    with client.pipeline(transaction=False) as pipe:
        pipe.zcard(keys.leases)
        pipe.hlen(keys.queue("unacked"))
        return sum(map(int, pipe.execute()))


def _ask(control: Any, what: str) -> dict[str, Any]:
    replies: list[dict[str, Any]] = control.broadcast(what, reply=True, timeout=PATIENCE_S) or []
    return {name: said for reply in replies for name, said in reply.items() if not _is_error(said)}


def _is_error(said: object) -> bool:
    return isinstance(said, dict) and "error" in said


def _worker(name: str, stats: Mapping[str, Any] | None, queues: Iterable[Mapping[str, Any]], leases: int) -> Worker:
    pool: Mapping[str, Any] = (stats or {}).get("pool") or {}
    total: Mapping[str, int] = (stats or {}).get("total") or {}
    return Worker(
        name=name,
        queues=tuple(sorted(str(queue["name"]) for queue in queues)),
        pool=_pool_of(str(pool["implementation"])) if "implementation" in pool else None,
        slots=pool.get("max-concurrency"),
        pid=None if stats is None else stats.get("pid"),
        leases=leases,
        ended=None if stats is None else sum(total.values()),
        up_s=None if stats is None else stats.get("uptime"),
        answers=stats is not None,
        leaked=(stats or {}).get(LEAKED),
        paused=tuple((stats or {}).get(PAUSED) or ()),
        draining=(stats or {}).get(DRAINING),
    )


def _pool_of(implementation: str) -> str:
    """The pool's name as `--pool` takes it, out of `celery.concurrency.thread:TaskPool`."""
    module = implementation.partition(":")[0].rpartition(".")[2]
    return "threads" if module == "thread" else module
