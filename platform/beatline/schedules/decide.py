"""What becomes of the slots of one schedule: pure, so that deciding again after a crash gives the same answer.

No clock, no Redis and no SQL in here. The caller keeps `decided_until`: every slot up to it has its outcome, and a
decision is valid only for the `decided_until` it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from beatline.schedules.model import Trigger
from beatline.schedules.triggers import due, next_slot


class OutcomeKind(StrEnum):
    """What became of a slot, as the table `occurrences` names it."""

    FIRED = "fired"
    COALESCED = "coalesced"
    MISFIRED = "misfired"
    SKIPPED = "skipped"
    BUFFERED = "buffered"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slot, or of consecutive slots that share it."""

    kind: OutcomeKind
    first: datetime
    last: datetime
    count: int = 1
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcomes of every slot later than the old `decided_until` and up to the new one.

    `next_slot` is the first slot that is left to decide: already due if the stretch was too long for one decision, and
    None if no slot will ever come.
    """

    outcomes: tuple[Outcome, ...]
    decided_until: datetime
    next_slot: datetime | None


def decide(trigger: Trigger, decided_until: datetime, now: datetime) -> Decision:
    """Decide every slot in (decided_until, now]: the latest fires, the older ones are coalesced into it.

    A clock that stepped back decides nothing until it has caught up. What a schedule may say of lateness and overlap
    enters here as further arguments, and nowhere else.
    """
    found = due(trigger, decided_until, now)
    if found is None:
        return Decision((), decided_until, next_slot(trigger, decided_until))
    upcoming = next_slot(trigger, found.last)
    if found.cut:
        # Too many for one decision: these are certain not to be the latest, and the rest follows.
        return Decision((_coalesced(found.first, found.last, found.count),), found.last, upcoming)
    fired = Outcome(OutcomeKind.FIRED, found.last, found.last)
    if found.previous is None:
        return Decision((fired,), found.last, upcoming)
    return Decision((_coalesced(found.first, found.previous, found.count - 1), fired), found.last, upcoming)


def settle(
    trigger: Trigger, decided_until: datetime, now: datetime, kind: OutcomeKind, reason: str
) -> tuple[Outcome, ...]:
    """Give every slot in (decided_until, now] the one outcome `kind`, because the schedule changes at `now`."""
    outcomes: list[Outcome] = []
    while (found := due(trigger, decided_until, now)) is not None:
        outcomes.append(Outcome(kind, found.first, found.last, found.count, reason))
        decided_until = found.last
    return tuple(outcomes)


def _coalesced(first: datetime, last: datetime, count: int) -> Outcome:
    return Outcome(OutcomeKind.COALESCED, first, last, count, "a later slot was due as well")
