"""What a file changes, and changing it: in the caller's transaction, all or nothing; a second time changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection

from beatline.definitions import store
from beatline.definitions.file import Contents, Wanted
from beatline.definitions.specs import KeyringOf
from beatline.definitions.store import Change
from beatline.errors import DefinitionError
from beatline.schedules import store as schedule_store
from beatline.schedules.model import ScheduleSpec

if TYPE_CHECKING:
    from beatline.families import Kind


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one definition or schedule."""

    kind: str
    name: str
    action: Literal["add", "change", "unchanged"]
    changes: tuple[Change, ...]


def apply(
    conn: Connection, contents: Contents, kinds: Mapping[str, Kind], keyring: KeyringOf, *, who: str
) -> list[Step]:
    """Bring the rows to what the file says, and tell what that took. Raises DefinitionError or SecretError.

    Nothing is removed: what a file does not name may stand in another.
    """
    steps = [_apply_definition(conn, wanted, keyring, who) for wanted in contents.definitions]
    for spec in contents.schedules:
        _refuse_dangling(conn, spec, kinds)
    return [*steps, *(_apply_schedule(conn, spec, who) for spec in contents.schedules)]


def _apply_definition(conn: Connection, wanted: Wanted, keyring: KeyringOf, who: str) -> Step:
    kind, name = wanted.kind.name, wanted.name
    current = store.find_by_name(conn, kind, name)
    changes = store.differences(current, wanted.checked, keyring)
    if current is None:
        store.add(conn, kind, name, wanted.checked, keyring, who=who, owner="file")
        return Step(kind, name, "add", tuple(changes))
    if current.owner != "file":
        changes.append(Change("owner", current.owner, "file"))
    if not changes:
        return Step(kind, name, "unchanged", ())
    store.update_spec(conn, current, wanted.checked, keyring, who=who, owner="file")
    return Step(kind, name, "change", tuple(changes))


def _apply_schedule(conn: Connection, spec: ScheduleSpec, who: str) -> Step:
    current = schedule_store.by_names(conn, [spec.name]).get(spec.name)
    if current is not None and current.removed_at is not None:
        current = None
    changes = [
        Change(field, before, after)
        for field, (before, after) in schedule_store.differences(current, spec).items()
        if current is not None or after not in (None, [], {})
    ]
    if current is not None and current.owner != "file":
        changes.append(Change("owner", current.owner, "file"))
    if current is not None and current.quarantined is not None:
        changes.append(Change("quarantined", current.quarantined, None))
    _, outcome = schedule_store.put(conn, spec, who=who, owner="file")
    if outcome is schedule_store.Put.UNCHANGED:
        return Step("schedule", spec.name, "unchanged", ())
    return Step("schedule", spec.name, "add" if current is None else "change", tuple(changes))


def _refuse_dangling(conn: Connection, spec: ScheduleSpec, kinds: Mapping[str, Kind]) -> None:
    """A misspelt name would otherwise show up only when the schedule fires."""
    for kind in kinds.values():
        if kind.task != spec.task:
            continue
        given: Any = spec.args[0] if spec.args else spec.kwargs.get(f"{kind.name}_id")
        if isinstance(given, str) and store.find(conn, kind.name, given) is None:
            raise DefinitionError(
                f"Schedule {spec.name!r}: args: there is no {kind.name} {given!r}, neither in the file nor stored."
            )
