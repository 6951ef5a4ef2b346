"""One schedule for each mailbox, spread over its period: brought to what the mailboxes say, touched only if it differs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from beatline.definitions import Definition, store
from beatline.errors import BeatlineError
from beatline.ledger.database import guarded
from beatline.logs import get_logger
from beatline.schedules import store as schedules
from beatline.schedules.model import Schedule, ScheduleSpec, read_spec
from beatline_tasks.email.database import transaction

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from beatline.installation import Installation

KIND: Final = "mailbox"
TASK: Final = "email.poll_account"
PREFIX: Final = "mailbox."
_WHO: Final = "email.sync_accounts"
_NAME_CHARS: Final = 100
_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)
_STEPS: Final = 2**32


@dataclass(slots=True)
class Synced:
    """What bringing the schedules in line took."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    left_alone: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """As a task's result."""
        names = ("added", "changed", "unchanged", "removed", "left_alone")
        return {name: getattr(self, name) for name in names}


def schedule_name(definition: Definition) -> str:
    """What a mailbox's schedule is called."""
    name = f"{PREFIX}{definition.name}"
    return name if len(name) <= _NAME_CHARS else f"{PREFIX}{definition.id}"


def offset_s(mailbox: UUID, every_s: float) -> float:
    """How far into its period a mailbox is polled: anywhere, but always the same."""
    return round((mailbox.int % _STEPS) / _STEPS * every_s, 3)


def wanted(definition: Definition, interval_s: float) -> ScheduleSpec:
    """The schedule of a mailbox. Raises DefinitionError."""
    every_s = float(definition.spec.get("interval_s") or interval_s)
    start = _EPOCH + timedelta(seconds=offset_s(definition.id, every_s))
    raw = {"task": TASK, "args": [str(definition.id)], "every": every_s, "start": start.isoformat()}
    return read_spec(schedule_name(definition), raw | {"priority": definition.spec.get("priority")})


def sync(installation: Installation, interval_s: float = 60) -> Synced:
    """Bring the schedules to what the mailboxes say; a second time changes nothing. Raises BeatlineError."""
    if not isinstance(interval_s, int | float) or not 1 <= interval_s <= 86_400:  # pyright: ignore[reportUnnecessaryIsInstance]  # a message can hold anything
        raise BeatlineError(f"email.sync_accounts takes an interval between 1 s and a day, not {interval_s!r:.40}.")
    with guarded(installation.settings), transaction(installation) as conn:
        synced = _sync(conn, interval_s)
    if synced.added or synced.changed or synced.removed:
        get_logger(__name__).info("mailboxes_synced", **synced.counts)
    return synced


def drop(conn: Connection, definition: Definition) -> bool:
    """Take a mailbox's schedule away; False if there is none of ours."""
    standing = schedules.find(conn, schedule_name(definition))
    if standing is None or not _is_ours(standing):
        return False
    schedules.remove(conn, str(standing.id), who=_WHO)
    return True


def _sync(conn: Connection, interval_s: float) -> Synced:
    synced = Synced()
    live = [found for found in store.list_definitions(conn, KIND) if found.parked is None]
    specs = {spec.name: spec for spec in (wanted(definition, interval_s) for definition in live)}
    standing = {found.name: found for found in schedules.list_schedules(conn) if found.name.startswith(PREFIX)}
    for name, spec in specs.items():
        there = standing.get(name)
        if there is not None and not _is_ours(there):
            synced.left_alone += 1  # someone has made it his own
        elif there is not None and not schedules.differences(there, spec):
            synced.unchanged += 1
        else:
            schedules.put(conn, spec, who=_WHO, owner="beatline")
            synced.added += there is None
            synced.changed += there is not None
    for name, there in standing.items():
        if name not in specs and _is_ours(there):
            schedules.remove(conn, str(there.id), who=_WHO)
            synced.removed += 1
    return synced


def _is_ours(schedule: Schedule) -> bool:
    return schedule.owner == "beatline" and schedule.task == TASK
