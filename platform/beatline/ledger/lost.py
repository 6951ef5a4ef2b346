"""What becomes of a run whose lease expired: pure, from the history of its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LOST_LIMIT: Final = 3
"""A run that lost its worker in so many begun attempts is dead: it may be what kills them."""
RETURNED_LIMIT: Final = 10
"""A run whose worker went away so often before it began is dead: something is wrong with the workers."""

SILENT: Final = "its worker stopped renewing its lease"


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """An attempt whose lease expired; `begun` is whether a pool had accepted it.

    `why` is empty where a worker that stopped in good order gave up a run it had not begun.
    """

    attempt: int
    begun: bool
    worker: str | None
    why: str = SILENT


@dataclass(frozen=True, slots=True)
class Republish:
    """The run goes back to its queue as this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Dead:
    """The run is not tried again; someone must look."""

    reason: str


def decide_lost(past: Sequence[LostAttempt], current: LostAttempt, *, parks: bool = False) -> Republish | Dead:
    """Repeat the run, or give it up if begun attempts were lost three times or reserved ones returned ten times.

    `past` are the attempts that were lost before, in order; what ended otherwise, or was given up in good order, does
    not count. With `parks` (`on_lost="dead"`) one begun attempt is enough, however its worker went.
    """
    if parks and current.begun:
        went = current.why or "its worker was stopped while it ran"
        return Dead(f'its worker was lost ({current.worker or "unknown"}: {went}), and its task says on_lost="dead"')
    if not current.why:
        return Republish(current.attempt + 1)
    alike = [*(a for a in past if a.begun is current.begun), current]
    if len(alike) < (LOST_LIMIT if current.begun else RETURNED_LIMIT):
        return Republish(current.attempt + 1)
    workers = ", ".join(a.worker or "unknown" for a in alike)
    if current.begun:
        return Dead(f"its worker died {_times(len(alike))} ({workers}); the last time: {current.why}")
    return Dead(f"its worker went away {_times(len(alike))} before it began ({workers})")


def _times(count: int) -> str:
    return "three times" if count == LOST_LIMIT else f"{count} times"
