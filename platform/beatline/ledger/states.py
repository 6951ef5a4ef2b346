"""The states of a run and of an attempt, and the order that lets events arrive in any order.

docs/lifecycle.md draws them. A run's state is that of the event with the greatest progress, and progress is
(attempt, stage): so a state never goes back, whatever order events are applied in and however often.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RunState(StrEnum):
    """What has become of a run."""

    ACCEPTED = "accepted"
    DELAYED = "delayed"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    LOST = "lost"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


ENDED: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.DEAD})


class EventKind(StrEnum):
    """What happened to one attempt of a run."""

    ACCEPTED = "accepted"  # the request exists; carries the whole message, and is queued or delayed if it says so
    QUEUED = "queued"  # a message whose row stands in PostgreSQL was put into its queue
    STARTED = "started"  # a pool accepted it: the attempt begins
    RETRIED = "retried"  # the attempt ended and asked for another
    REPLACED = "replaced"  # the attempt ended by putting another task in its place, under the same run id
    RETURNED = "returned"  # reserved, never begun, and its worker went away: back to the queue, not counted
    LOST = "lost"  # begun, and its worker went away: back to the queue, counted
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"  # revoked or expired
    DEAD = "dead"  # parked: someone must look
    REFUSED = "refused"  # a late end, by a worker that no longer held the lease: recorded, and changes nothing


# Stage within an attempt. An end beats everything else of its attempt; the next attempt beats the end of this one.
_STAGE: Final = {
    EventKind.ACCEPTED: 0,
    EventKind.QUEUED: 1,
    EventKind.STARTED: 2,
    EventKind.RETRIED: 3,
    EventKind.REPLACED: 3,
    EventKind.RETURNED: 3,
    EventKind.LOST: 3,
    EventKind.SUCCEEDED: 9,
    EventKind.FAILED: 9,
    EventKind.CANCELLED: 9,
    EventKind.DEAD: 9,
}

_RUN_STATE: Final = {
    EventKind.ACCEPTED: RunState.ACCEPTED,
    EventKind.QUEUED: RunState.QUEUED,
    EventKind.STARTED: RunState.RUNNING,
    EventKind.RETRIED: RunState.RETRYING,
    EventKind.REPLACED: RunState.RETRYING,
    EventKind.RETURNED: RunState.LOST,
    EventKind.LOST: RunState.LOST,
    EventKind.SUCCEEDED: RunState.SUCCEEDED,
    EventKind.FAILED: RunState.FAILED,
    EventKind.CANCELLED: RunState.CANCELLED,
    EventKind.DEAD: RunState.DEAD,
}


def progress(kind: EventKind, attempt: int) -> int | None:
    """How far an event brings its run; None for one that changes no state (refused)."""
    stage = _STAGE.get(kind)
    return None if stage is None else attempt * 10 + stage


def run_state(kind: EventKind) -> RunState | None:
    """The state an event puts its run into; None for one that changes no state."""
    return _RUN_STATE.get(kind)
