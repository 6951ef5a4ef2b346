"""Drain workers by name: they take nothing more, give back what they have not begun, finish what runs, and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beatline.engine.orders import DRAIN
from beatline.errors import ConflictError, NotFoundError
from beatline.queues.census import Worker
from beatline.queues.overview import ask_workers

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

PATIENCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Drained:
    """A worker that was told. It `answers` unless it is busy in a solo pool, or gone: then it drains once it looks."""

    name: str
    answers: bool


def drain(
    installation: Installation, app: Celery, given: str, *, of_queue: bool = False, keep: bool = False
) -> list[Drained]:
    """Drain the worker of this name, or whose name begins so; with `of_queue`, every worker of the queue of that name.

    With `keep` they stay, idle, until they are stopped. Raises NotFoundError, which names the workers there are;
    ConflictError if several begin so; redis.RedisError.
    """
    known = ask_workers(installation, app)
    names = _of_queue(known, given) if of_queue else [_named(known, given)]
    control: Any = app.control
    replies: list[dict[str, Any]] = control.broadcast(
        DRAIN, arguments={"keep": keep}, destination=names, reply=True, timeout=PATIENCE_S, limit=len(names)
    )  # fmt: skip
    answered = {name for reply in replies or () for name, said in reply.items() if "ok" in said}
    return [Drained(name, name in answered) for name in names]


def _named(known: Sequence[Worker], given: str) -> str:
    names = [worker.name for worker in known]
    if given in names:
        return given
    found = [name for name in names if given and name.startswith(given)]
    if not found:
        hint = f"Workers: {', '.join(names)}." if names else "No worker answers."
        raise NotFoundError("worker", given, hint)
    if len(found) > 1:
        raise ConflictError(f"Several workers' names begin with {given!r}: {', '.join(found)}. Write one of them out.")
    return found[0]


def _of_queue(known: Sequence[Worker], queue: str) -> list[str]:
    found = [worker.name for worker in known if queue in worker.queues or queue in worker.paused]
    if not found:
        served = sorted({name for worker in known for name in (*worker.queues, *worker.paused)})
        hint = f"Queues that are served: {', '.join(served)}." if served else "No worker answers."
        raise NotFoundError("worker of the queue", queue, hint)
    return found
