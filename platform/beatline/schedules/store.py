"""Schedules in PostgreSQL, the truth: every change is one transaction of row, version, revision and audit.

Each function works in the caller's transaction. Writers wait for one another, so that revisions become visible in
order and Beat, which asks for `revision > seen` at each tick, misses none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, or_, select, text, update

from beatline.clock import utc_now
from beatline.errors import ConflictError, DefinitionError, NotFoundError
from beatline.families import families
from beatline.ledger.database import schema_of
from beatline.ledger.model import audit, schedules
from beatline.schedules.decide import OutcomeKind, settle
from beatline.schedules.model import Date, Owner, Schedule, ScheduleSpec, anchored, read_spec
from beatline.schedules.occurrences import insert_settled
from beatline.schedules.triggers import next_slot
from beatline.secrets import mask

_COLUMNS: Final = tuple(field.name for field in fields(Schedule))
_SPEC: Final = ("task", "args", "kwargs", "queue", "priority", "trigger")


class Put(StrEnum):
    """What putting a spec in place came to."""

    ADDED = "added"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


def find(conn: Connection, name_or_id: str) -> Schedule | None:
    """The schedule of this name or id; None if there is none, or it was removed."""
    row = _find(conn, name_or_id)
    return None if row is None or row.removed_at is not None else row


def get(conn: Connection, name_or_id: str) -> Schedule:
    """The schedule of this name or id. Raises NotFoundError with the names that come close."""
    found = find(conn, name_or_id)
    if found is None:
        names = conn.execute(select(schedules.c.name).where(schedules.c.removed_at.is_(None))).scalars().all()
        close = get_close_matches(name_or_id, names, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`beatline schedules list` shows all."
        raise NotFoundError("schedule", name_or_id, hint)
    return found


def list_schedules(conn: Connection) -> list[Schedule]:
    """Every schedule, by name."""
    rows = conn.execute(select(schedules).where(schedules.c.removed_at.is_(None)).order_by(schedules.c.name))
    return [_schedule(row) for row in rows.mappings()]


def by_names(conn: Connection, names: Sequence[str]) -> dict[str, Schedule]:
    """The rows of these names, removed ones included."""
    rows = conn.execute(select(schedules).where(schedules.c.name.in_(names)))
    return {row["name"]: _schedule(row) for row in rows.mappings()}


def changes_since(conn: Connection, revision: int, limit: int = 500) -> list[Schedule]:
    """Rows that changed after `revision`, in order, removed ones included; a full page may have more behind it."""
    rows = conn.execute(
        select(schedules).where(schedules.c.revision > revision).order_by(schedules.c.revision).limit(limit)
    )
    return [_schedule(row) for row in rows.mappings()]


def differences(current: Schedule | None, spec: ScheduleSpec) -> dict[str, tuple[Any, Any]]:
    """Field → (stored, wanted) where they differ; every field of a schedule that does not exist yet."""
    wanted = _spec_values(anchored(spec, utc_now(), current.trigger if current else None))
    stored = {name: getattr(current, name) for name in _SPEC} if current else dict.fromkeys(_SPEC)
    return {name: (stored[name], wanted[name]) for name in _SPEC if stored[name] != wanted[name]}


def add(conn: Connection, spec: ScheduleSpec, *, who: str, owner: Owner = "operator") -> Schedule:
    """A new schedule; its first slot is the first one from now on.

    Raises ConflictError if one of that name exists, DefinitionError if it would never run.
    """
    revision = _begin(conn)
    previous = _find(conn, spec.name)
    if previous is not None and previous.removed_at is None:
        raise ConflictError(
            f"There is a schedule {spec.name!r} already: change it with `beatline schedules set`, or remove it first."
        )
    return _insert(conn, spec, revision, utc_now(), who, owner, previous)


def put(
    conn: Connection, spec: ScheduleSpec, *, who: str, owner: Owner, since: datetime | None = None
) -> tuple[Schedule, Put]:
    """The schedule is as the spec says, added or changed if it was not; a pause stays.

    Of a schedule that is added, slots after `since` are decided, from now on if that is not given. An interval without a start keeps the one it has, and a changed trigger does not fire for the past. Raises
    DefinitionError if the schedule would never run.
    """
    revision = _begin(conn)
    current = _find(conn, spec.name)
    now = utc_now()
    if current is None or current.removed_at is not None:
        return _insert(conn, spec, revision, now, who, owner, current, since), Put.ADDED
    changed = differences(current, spec)
    if not changed and current.quarantined is None and current.owner == owner:
        return current, Put.UNCHANGED
    wanted = anchored(spec, now, current.trigger)
    values: dict[str, Any] = {**_spec_values(wanted), "owner": owner, "quarantined": None}
    if "trigger" in changed or current.quarantined is not None:
        _refuse_dead(wanted, now)
        values["decided_until"] = _settle(conn, current, now, who, "the schedule was changed")
    return _change(conn, current, revision, now, who, "change", values), Put.CHANGED


def edit(
    conn: Connection, name_or_id: str, edited: Callable[[Schedule], ScheduleSpec], *, who: str
) -> tuple[Schedule, Put]:
    """The schedule with the spec that `edited` makes of it; nobody else changes it between. Else as `put`."""
    _begin(conn)
    return put(conn, edited(get(conn, name_or_id)), who=who, owner="operator")


def pause(conn: Connection, name_or_id: str, *, who: str, reason: str | None = None) -> Schedule:
    """From now on no slot is decided. Slots that were due but not decided yet are skipped.

    Raises ConflictError if it is paused already.
    """
    revision, current, now = _begin(conn), get(conn, name_or_id), utc_now()
    if current.paused_at is not None:
        raise ConflictError(
            f"The schedule {current.name!r} is paused already, since {current.paused_at:%Y-%m-%d %H:%M} UTC "
            f"by {current.paused_by}."
        )
    until = _settle(conn, current, now, who, "the schedule was paused")
    values = {"paused_at": now, "paused_by": who, "pause_reason": reason, "decided_until": until}
    return _change(conn, current, revision, now, who, "pause", values)


def resume(conn: Connection, name_or_id: str, *, who: str) -> Schedule:
    """Slots from now on are decided again; those of the pause are not made up for. Ends a quarantine as well.

    Raises ConflictError if there is nothing to resume, DefinitionError if the reason of the quarantine still stands.
    """
    revision, current, now = _begin(conn), get(conn, name_or_id), utc_now()
    if current.paused_at is None and current.quarantined is None:
        raise ConflictError(f"The schedule {current.name!r} is neither paused nor quarantined.")
    _refuse_dead(current.spec(), now)
    until = _settle(conn, current, now, who, "")
    values = {"paused_at": None, "paused_by": None, "pause_reason": None, "quarantined": None, "decided_until": until}
    return _change(conn, current, revision, now, who, "resume", values)


def remove(conn: Connection, name_or_id: str, *, who: str) -> Schedule:
    """No slot of it is decided any more; its history stays."""
    revision, current, now = _begin(conn), get(conn, name_or_id), utc_now()
    until = _settle(conn, current, now, who, "the schedule was removed")
    return _change(conn, current, revision, now, who, "remove", {"removed_at": now, "decided_until": until})


def audit_run_now(conn: Connection, schedule: Schedule, run_id: str, *, who: str) -> None:
    """Record who had the schedule's task run beside its slots."""
    conn.execute(
        insert(audit).values(
            at=utc_now(), who=who, action="run-now", kind="schedule", name=schedule.name, after={"run_id": run_id}
        )
    )


def quarantine(conn: Connection, schedule: Schedule, reason: str, *, who: str) -> bool:
    """Set a schedule aside that cannot be decided; False if it was changed or set aside meanwhile."""
    revision, current = _begin(conn), _find(conn, str(schedule.id))
    if current is None or current.version != schedule.version or not current.live:
        return False
    _change(conn, current, revision, utc_now(), who, "quarantine", {"quarantined": reason[:1000]})
    return True


def keep_broken(conn: Connection, name: str, reason: str, *, who: str, owner: Owner) -> bool:
    """List something that could not be read as a schedule, under its name, with the reason; False if it stands so."""
    revision, current, now = _begin(conn), _find(conn, name), utc_now()
    if current is not None and current.removed_at is None:
        if current.quarantined == reason or current.owner != owner:
            return False
        _change(conn, current, revision, now, who, "quarantine", {"quarantined": reason})
        return True
    values: dict[str, Any] = {"task": "?", "args": [], "kwargs": {}, "queue": None, "priority": None, "trigger": {},
              "quarantined": reason}  # fmt: skip
    _write_new(conn, name, values, revision, now, who, owner, current)
    return True


def ensure_own(conn: Connection) -> list[str]:
    """The schedules that families bring along stand; the names of those that were added.

    What an operator paused, changed or removed stays so.
    """
    added: list[str] = []
    for own in (own for family in families().values() for own in family.schedules):
        standing = by_names(conn, [own.name]).get(own.name)
        if standing is not None and (standing.owner != "beatline" or standing.removed_at is not None):
            continue
        spec = read_spec(own.name, {"task": own.task, "cron": own.cron, "tz": own.time_zone})
        if put(conn, spec, who="beatline", owner="beatline")[1] is Put.ADDED:
            added.append(own.name)
    return added


def _begin(conn: Connection) -> int:
    """Wait for other writers; the revision of the change that follows."""
    conn.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"{schema_of(conn)}.schedules"}
    )
    newest: int | None = conn.execute(
        select(schedules.c.revision).order_by(schedules.c.revision.desc()).limit(1)
    ).scalar()
    return (newest or 0) + 1


def _find(conn: Connection, name_or_id: str) -> Schedule | None:
    wanted: ColumnElement[bool] = schedules.c.name == name_or_id
    with suppress(ValueError):
        wanted = or_(wanted, schedules.c.id == UUID(name_or_id))
    row = conn.execute(select(schedules).where(wanted)).mappings().first()
    return None if row is None else _schedule(row)


def _schedule(row: RowMapping) -> Schedule:
    return Schedule(**{name: row[name] for name in _COLUMNS})


def _spec_values(spec: ScheduleSpec) -> dict[str, Any]:
    return {
        "task": spec.task,
        "args": list(spec.args),
        "kwargs": spec.kwargs,
        "queue": spec.queue,
        "priority": spec.priority,
        "trigger": spec.stored_trigger,
    }


def _refuse_dead(spec: ScheduleSpec, now: datetime) -> None:
    if next_slot(spec.trigger, now) is not None:
        return
    what = f"at: {spec.trigger.at.isoformat()} has passed" if isinstance(spec.trigger, Date) else "its rule never comes"
    raise DefinitionError(f"Schedule {spec.name!r}: {what}; it would never run.")


def _insert(
    conn: Connection,
    spec: ScheduleSpec,
    revision: int,
    now: datetime,
    who: str,
    owner: Owner,
    tombstone: Schedule | None,
    since: datetime | None = None,
) -> Schedule:
    spec = anchored(spec, now)
    _refuse_dead(spec, since or now)
    values = {**_spec_values(spec), "decided_until": since or now}
    return _write_new(conn, spec.name, values, revision, now, who, owner, tombstone)


def _write_new(
    conn: Connection,
    name: str,
    values: Mapping[str, Any],
    revision: int,
    now: datetime,
    who: str,
    owner: Owner,
    tombstone: Schedule | None,
) -> Schedule:
    """A row with an id of its own, in the place of the removed schedule that had the name."""
    row: dict[str, Any] = dict.fromkeys(_COLUMNS) | {
        "id": uuid4(), "name": name, "decided_until": now, "owner": owner, "version": 1, "revision": revision,
        "created_at": now, "updated_at": now, **values,
    }  # fmt: skip
    if tombstone is None:
        conn.execute(insert(schedules).values(row))
    else:
        conn.execute(update(schedules).where(schedules.c.id == tombstone.id).values(row))
    made = Schedule(**row)
    _audit(conn, now, who, "add", name, None, made)
    return made


def _change(
    conn: Connection,
    current: Schedule,
    revision: int,
    now: datetime,
    who: str,
    action: str,
    values: Mapping[str, Any],
) -> Schedule:
    changed = {**values, "version": current.version + 1, "revision": revision, "updated_at": now}
    row = conn.execute(
        update(schedules).where(schedules.c.id == current.id).values(changed).returning(schedules)
    ).mappings().one()  # fmt: skip
    after = _schedule(row)
    _audit(conn, now, who, action, current.name, current, after)
    return after


def _settle(conn: Connection, current: Schedule, now: datetime, who: str, reason: str) -> datetime:
    """Give slots that were due but not decided their outcome, and return the new `decided_until`.

    Those of a quarantine are refused with its reason, others skipped with the one given. Those of a pause need none:
    the audit has its beginning and its end.
    """
    # Beat may be deciding this schedule right now: whoever locks the row first goes first.
    decided: datetime = conn.execute(
        select(schedules.c.decided_until).where(schedules.c.id == current.id).with_for_update()
    ).scalar_one()  # fmt: skip
    if current.paused_at is None:
        kind = OutcomeKind.SKIPPED if current.quarantined is None else OutcomeKind.REFUSED
        with suppress(DefinitionError):  # what could not be read never had slots
            outcomes = settle(current.spec().trigger, decided, now, kind, current.quarantined or reason)
            insert_settled(conn, current.id, outcomes, now, by=who)
    return max(now, decided)


def _audit(
    conn: Connection, now: datetime, who: str, action: str, name: str, before: Schedule | None, after: Schedule | None
) -> None:
    conn.execute(
        insert(audit).values(
            at=now, who=who, action=action, kind="schedule", name=name, before=_plain(before), after=_plain(after)
        )
    )


def _plain(schedule: Schedule | None) -> dict[str, Any] | None:
    if schedule is None:
        return None
    shown = {name: getattr(schedule, name) for name in _COLUMNS}
    return {
        name: str(value) if isinstance(value, datetime | UUID) else mask(value)
        for name, value in shown.items()
        if value is not None
    }
