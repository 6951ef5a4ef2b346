"""Which queue a task goes to: the one its caller or its decorator names, else its family's, else `default`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from beatline.families import Family
from beatline.names import check_queue
from beatline.queues.topology import DEFAULT, TOPOLOGY, Queue


def known_queues(foreign: Iterable[str]) -> dict[str, Queue]:
    """Beatline's queues and those a project declares, by name; a foreign queue gets the values of `default`.

    Raises NameRefusedError.
    """
    queues = {queue.name: queue for queue in TOPOLOGY}
    standard = queues[DEFAULT]
    for name in foreign:
        if name not in queues:
            queues[check_queue(name)] = Queue(
                name,
                "declared in BEATLINE_QUEUES",
                pool=standard.pool,
                concurrency=standard.concurrency,
                prefetch=standard.prefetch,
            )
    return queues


class FamilyRoutes:
    """Celery's router by the task's name: `<family>.…` goes to the family's queue, all else is left to Celery."""

    def __init__(self, families: Mapping[str, Family]) -> None:
        self._queues = {name: family.queue for name, family in families.items()}
        self._routes = {task: queue for family in families.values() for task, queue in family.routes.items()}

    def __call__(self, name: str, *_: Any, **__: Any) -> dict[str, str] | None:
        queue = self._routes.get(name) or (self._queues.get(name.partition(".")[0]) if "." in name else None)
        return {"queue": queue} if queue else None
