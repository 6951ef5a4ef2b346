"""Which queues share a worker process on one machine: a pure function of the queue table.

A process costs some 80 MB before it does anything, so queues share one where that does no harm: those that mostly wait
on one threads pool; the others by how long a task of theirs may take, since a process has one time limit for all, and
an hour's transformation must not stand before a short task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from beatline.queues.command import Overrides, worker_command
from beatline.queues.topology import Queue

BANDS_S: Final = ((900, "short"), (3600, "long"), (None, "longest"))
"""Hard limits up to which prefork queues share a process, and what such a process is called."""

SHARED_THREADS: Final = 16
"""Slots of the shared threads pool: each may hold a connection to PostgreSQL, and an engine has 20."""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """The queues of one worker process, or of `processes` alike."""

    name: str
    queues: tuple[Queue, ...]
    overrides: Overrides | None = None
    processes: int = 1

    def arguments(self, app: str, name: str) -> list[str]:
        """What comes after `python -m celery`."""
        _, _, *arguments = worker_command(app, name, self.queues, self.overrides)
        return arguments


def worker_groups(queues: Iterable[Queue]) -> tuple[WorkerGroup, ...]:
    """Every queue in exactly one group; a queue that wants several processes keeps them to itself."""
    shared: dict[str, list[Queue]] = {}
    alone: list[WorkerGroup] = []
    for queue in queues:
        if queue.processes > 1 or queue.pool in ("solo", "gevent"):
            alone.append(WorkerGroup(queue.name, (queue,), processes=queue.processes))
        else:
            shared.setdefault(_label(queue), []).append(queue)
    return (*(_group(label, members) for label, members in shared.items()), *alone)


def _label(queue: Queue) -> str:
    if queue.pool == "threads":
        return "threads"
    return next(label for limit_s, label in BANDS_S if limit_s is None or queue.hard_limit_s <= limit_s)


def _group(label: str, members: list[Queue]) -> WorkerGroup:
    name = members[0].name if len(members) == 1 else label
    slots = min(SHARED_THREADS, max(queue.concurrency for queue in members))
    overrides = Overrides(concurrency=slots) if label == "threads" else None
    return WorkerGroup(name, tuple(members), overrides)
