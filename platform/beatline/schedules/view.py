"""A schedule as people and programs are shown it: secrets masked, its rule in words, its next times."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Any

from beatline.clock import utc_now
from beatline.errors import DefinitionError
from beatline.schedules.model import Schedule
from beatline.schedules.triggers import in_people_words, next_slot, slots
from beatline.secrets import mask


def shown(schedule: Schedule) -> dict[str, Any]:
    """Its fields by the names that people use."""
    try:
        trigger = schedule.spec().trigger
        upcoming = next_slot(trigger, max(utc_now(), schedule.decided_until))
        overdue = next_slot(trigger, schedule.decided_until)
    except DefinitionError:
        upcoming = overdue = None
    state = (
        "removed" if schedule.removed_at else "quarantined" if schedule.quarantined else
        "paused" if schedule.paused_at else "active" if overdue else "finished"
    )  # fmt: skip
    return {
        "name": schedule.name, "task": schedule.task, "args": mask(schedule.args), "kwargs": mask(schedule.kwargs),
        "queue": schedule.queue, "priority": schedule.priority, "when": in_words(schedule),
        "zone": schedule.trigger.get("tz"), "trigger": schedule.trigger,
        "next": upcoming if schedule.live else None, "state": state,
        "reason": schedule.quarantined or schedule.pause_reason,
        "paused_by": schedule.paused_by, "paused_at": schedule.paused_at, "owner": schedule.owner,
        "version": schedule.version, "id": str(schedule.id), "changed": schedule.updated_at,
    }  # fmt: skip


def in_words(schedule: Schedule) -> str:
    """When it runs, as people say it; nothing of a rule that no longer makes sense."""
    try:
        return in_people_words(schedule.spec().trigger)
    except DefinitionError:
        return ""


def coming(schedule: Schedule, count: int) -> list[datetime]:
    """Its next slots, in UTC, paused or not. Raises DefinitionError if its rule no longer makes sense."""
    return list(islice(slots(schedule.spec().trigger, max(utc_now(), schedule.decided_until)), count))
