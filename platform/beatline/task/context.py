"""The run that a task's code is executing, for logs, requests to others, and guarded writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery import current_app, current_task

from beatline.engine import headers as h
from beatline.errors import BeatlineError
from beatline.task.cancelling import is_cancelled

if TYPE_CHECKING:
    from beatline.installation import Installation


@dataclass(frozen=True, slots=True)
class RunContext:
    """Which run, and which execution of it, this code is.

    `fence` grows with every claim of any run: a write guarded by `WHERE fence <= :mine`, that writes its own, is refused
    to a holder that lost its lease once the next one has written. It is 0 where a task is called directly, without a
    worker.
    """

    run_id: str
    attempt: int
    fence: int
    task: str
    queue: str
    schedule: str | None
    slot: datetime | None

    @property
    def cancelled(self) -> bool:
        """Whether the run has been cancelled since it began. Asks no server, so a loop may look each time."""
        return is_cancelled(self.fence)


def current_run() -> RunContext:
    """The run that is being executed. Raises BeatlineError outside a task."""
    request: Any = getattr(current_task, "request", None)
    if request is None or request.id is None:
        raise BeatlineError("There is no current run: current_run() is for the code of a task.")
    slot = request.get(h.SLOT)
    delivery: dict[str, Any] = request.delivery_info or {}
    return RunContext(
        run_id=request.id,
        attempt=int(request.get(h.ATTEMPT) or 1),
        fence=int(request.get(h.FENCE) or 0),
        task=str(current_task.name),
        queue=str(delivery.get("routing_key") or ""),
        schedule=request.get(h.SCHEDULE),
        slot=datetime.fromisoformat(slot) if slot else None,
    )


def installation() -> Installation:
    """The installation of the app whose task this is. Raises BeatlineError if that app is none of Beatline's."""
    found: Installation | None = current_app.conf.get("beatline")
    if found is None:
        raise BeatlineError("The current Celery app is not a Beatline app: call beatline.attach(app) where it is made.")
    return found
