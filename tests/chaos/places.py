"""Every failpoint of the platform between accepting a run and having its end in PostgreSQL, and what leads there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from chaos.plan import Shape

Who = Literal["sender", "worker", "recorder"]
Needs = Literal["run", "lost worker", "lost message", "accepted only", "delayed"]


@dataclass(frozen=True, slots=True)
class Place:
    """A failpoint: which process dies there, and what has to be asked for, or to have happened, so that it gets there."""

    name: str
    who: Who
    shape: Shape = "single"
    strict: bool = False
    needs: Needs = "run"
    how: Literal["delay", "submit"] = "delay"


PLACES: Final = (
    # accept and publish
    Place("publish.sending", "sender"),
    Place("publish.sent", "sender"),
    Place("submit.committed", "sender", how="submit"),
    # fetch, claim, begin
    Place("worker.fetched", "worker"),
    Place("worker.claimed", "worker"),
    Place("worker.begun", "worker"),
    Place("lease.told_begun", "worker"),
    # effect
    Place("task.before_effect", "worker"),
    Place("task.after_effect", "worker"),
    Place("task.returned", "worker", shape="chain"),
    Place("task.confirmed", "worker", shape="chain"),
    # end and acknowledge
    Place("worker.returned", "worker"),
    Place("worker.retried", "worker", shape="retry"),
    Place("worker.ended", "worker"),
    Place("worker.acknowledged", "worker"),
    Place("strict.checked", "worker", strict=True),
    Place("strict.committed", "worker", strict=True),
    Place("strict.next_committed", "worker", strict=True, shape="retry"),
    # drain and commit
    Place("recorder.read", "recorder"),
    Place("recorder.written", "recorder"),
    Place("recorder.committed", "recorder"),
    Place("recorder.removed", "recorder"),
    # what was lost on the way, and what waits
    Place("reconcile.decided", "recorder", needs="lost worker"),
    Place("reconcile.put_back", "recorder", needs="lost worker"),
    Place("reconcile.missing_published", "recorder", needs="lost message"),
    Place("reconcile.published", "recorder", needs="accepted only"),
    Place("delays.taken", "recorder", needs="delayed"),
    Place("delays.published", "recorder", needs="delayed"),
)

OF_THE_WORKLOAD: Final = frozenset({"task.before_effect", "task.after_effect"})
"""These are reached by the trial's own tasks."""
ELSEWHERE: Final = ("beat.", "report.", "email.", "etl_")
"""What failpoints of Beat and of the families begin with; their own tests crash at them."""
