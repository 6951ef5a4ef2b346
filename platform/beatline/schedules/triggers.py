"""The slots of a trigger: pure arithmetic on aware UTC, with no clock.

Cron is evaluated by cronsim in the schedule's zone, as Debian's cron does it: of five fields, a job at a fixed time
that the clock skips runs when the skipped hour is over, and one whose time comes twice runs once, the first time;
expressions whose minute or hour begins with `*`, and those of six fields, follow the wall clock through both. Intervals
are arithmetic on UTC: k · every after their start, however long Beat was away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Final

from cronsim import CronSim

from beatline.errors import DefinitionError
from beatline.schedules.model import Cron, Date, Interval, Trigger
from beatline.schedules.zones import in_words, zone

CRON_LIMIT: Final = 5000
"""The most slots of a cron expression that are looked at in one go: about a tenth of a second."""

_ANY_DAY: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """The slots of one stretch of time: how many, the first, the last and the one before it.

    `cut` says that the stretch holds more slots than were looked at; then `last` is the last that was.
    """

    count: int
    first: datetime
    previous: datetime | None
    last: datetime
    cut: bool = False


def slots_after(trigger: Trigger, after: datetime, until: datetime) -> Iterator[datetime]:
    """Every slot later than `after` and not later than `until`, in order, in UTC."""
    return takewhile(lambda slot: slot <= until, slots(trigger, after))


def next_slot(trigger: Trigger, after: datetime) -> datetime | None:
    """The first slot later than `after`; None if there is none for ever (for cron: for fifty years)."""
    return next(slots(trigger, after), None)


def due(trigger: Trigger, after: datetime, until: datetime, limit: int = CRON_LIMIT) -> Due | None:
    """What is due in (after, until]; None if nothing. Takes no longer for an interval that was away for years."""
    if isinstance(trigger, Interval):
        return _due_of_interval(trigger, after, until)
    found = list(islice(slots_after(trigger, after, until), limit + 1))
    if not found:
        return None
    cut = len(found) > limit
    del found[limit:]
    return Due(len(found), found[0], found[-2] if len(found) > 1 else None, found[-1], cut)


def in_people_words(trigger: Trigger) -> str:
    """The trigger in a few words, without its zone."""
    if isinstance(trigger, Interval):
        return f"every {in_words(trigger.every)}"
    if isinstance(trigger, Date):
        local = trigger.at.astimezone(zone(trigger.tz)).replace(tzinfo=None)
        return f"once at {local.isoformat(' ', 'auto' if local.second or local.microsecond else 'minutes')}"
    words = CronSim(trigger.expr, _ANY_DAY).explain()
    return words[:1].lower() + words[1:]


def slots(trigger: Trigger, after: datetime) -> Iterator[datetime]:
    """Every slot later than `after`, in order, in UTC: without end, but for a date and a rule that ends."""
    if isinstance(trigger, Cron):
        return _slots_of_cron(trigger, after)
    if isinstance(trigger, Interval):
        return _slots_of_interval(trigger, after)
    return iter([trigger.at] if trigger.at > after else [])


def _slots_of_cron(trigger: Cron, after: datetime) -> Iterator[datetime]:
    try:
        tz = UTC if trigger.tz == "UTC" else zone(trigger.tz)
    except ValueError as exc:
        raise DefinitionError(f"tz: {exc}.") from None
    reached = after
    for local in CronSim(trigger.expr, after.astimezone(tz)):
        slot = local.astimezone(UTC)
        # In the hour that comes twice cronsim names the first of two equal local times, even from within the second.
        if slot > reached:
            reached = slot
            yield slot


def _anchor(trigger: Interval) -> datetime:
    if trigger.start is None:
        raise DefinitionError("start: an interval is anchored when it is added; this one is not.")
    return trigger.start


def _slots_of_interval(trigger: Interval, after: datetime) -> Iterator[datetime]:
    start, every = _anchor(trigger), trigger.every
    slot = start if after < start else start + ((after - start) // every + 1) * every
    while True:
        yield slot
        slot += every


def _due_of_interval(trigger: Interval, after: datetime, until: datetime) -> Due | None:
    first = next(_slots_of_interval(trigger, after))
    if first > until:
        return None
    more: int = (until - first) // trigger.every
    last = first + more * trigger.every
    return Due(more + 1, first, last - trigger.every if more else None, last)
