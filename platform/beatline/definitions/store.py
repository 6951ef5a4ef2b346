"""Definitions in PostgreSQL: every change is one transaction of row, version and audit, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Final, cast
from uuid import UUID, uuid4

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select, text, update

from beatline.clock import utc_now
from beatline.definitions.model import Definition, Owner
from beatline.definitions.specs import Checked, KeyringOf, dotted, seal, unseal
from beatline.errors import DefinitionError, NotFoundError, SecretError
from beatline.ledger.database import schema_of
from beatline.ledger.model import audit, definitions
from beatline.names import check_name
from beatline.secrets import MASK

_COLUMNS: Final = tuple(field.name for field in fields(Definition))
_PARKED_CHARS: Final = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs, as people may see it: a secret is *** on both sides."""

    field: str
    before: Any
    after: Any


def find(conn: Connection, kind: str, name_or_id: str) -> Definition | None:
    """The definition of this kind and of this name or id; None if there is none."""
    table = definitions.c
    try:
        wanted = or_(table.name == name_or_id, table.id == UUID(name_or_id))
    except ValueError:
        wanted = or_(table.name == name_or_id)
    row = conn.execute(select(definitions).where(table.kind == kind, wanted)).mappings().first()
    return None if row is None else _definition(row)


def find_by_name(conn: Connection, kind: str, name: str) -> Definition | None:
    """The definition of this kind and name; None if there is none."""
    table = definitions.c
    row = conn.execute(select(definitions).where(table.kind == kind, table.name == name)).mappings().first()
    return None if row is None else _definition(row)


def get(conn: Connection, kind: str, name_or_id: str) -> Definition:
    """The definition of this kind and of this name or id. Raises NotFoundError with the names that come close."""
    found = find(conn, kind, name_or_id)
    if found is None:
        names = conn.execute(select(definitions.c.name).where(definitions.c.kind == kind)).scalars().all()
        close = get_close_matches(name_or_id, names, n=3)
        raise NotFoundError(kind, name_or_id, f"Did you mean {' or '.join(close)}?" if close else "")
    return found


def list_definitions(conn: Connection, kind: str) -> list[Definition]:
    """Every definition of a kind, by name."""
    rows = conn.execute(select(definitions).where(definitions.c.kind == kind).order_by(definitions.c.name))
    return [_definition(row) for row in rows.mappings()]


def add(
    conn: Connection, kind: str, name: str, checked: Checked, keyring: KeyringOf, *, who: str, owner: Owner = "operator"
) -> Definition:
    """A new definition. Raises DefinitionError if one of that kind and name exists, SecretError without a key."""
    check_name(kind, name)
    _one_writer(conn)
    if find_by_name(conn, kind, name) is not None:
        raise DefinitionError(f"There is a {kind} {name!r} already: change it with `set`, or remove it first.")
    now, new_id = utc_now(), uuid4()
    made = Definition(
        id=new_id,
        kind=kind,
        name=name,
        spec=checked.plain,
        secrets=seal(checked.secrets, keyring, bound_to=f"definition:{new_id}"),
        state={},
        parked=None,
        owner=owner,
        version=1,
        created_at=now,
        updated_at=now,
    )
    conn.execute(insert(definitions).values({name: getattr(made, name) for name in _COLUMNS}))
    _audit(conn, who, "add", made, None, {"spec": made.spec})
    return made


def update_spec(
    conn: Connection, current: Definition, checked: Checked, keyring: KeyringOf, *, who: str, owner: Owner = "operator"
) -> Definition:
    """The definition with another spec, as a new version; what was parked gets another try. Unchanged: as it was.

    Raises DefinitionError if it was changed since `current` was read.
    """
    changes = differences(current, checked, keyring)
    if not changes and current.owner == owner:
        return current
    values = {
        "spec": checked.plain,
        "secrets": seal(checked.secrets, keyring, bound_to=current.bound_to),
        "parked": None,
        "owner": owner,
        "version": current.version + 1,
        "updated_at": utc_now(),
    }
    table = definitions.c
    row = conn.execute(
        update(definitions)
        .where(table.id == current.id, table.version == current.version)
        .values(values)
        .returning(definitions)
    ).mappings().one_or_none()  # fmt: skip
    if row is None:
        raise DefinitionError(f"{current.called} was changed or removed by someone else meanwhile: look again.")
    secret = [change.field for change in changes if change.after == MASK]
    after: dict[str, Any] = {"spec": checked.plain, **({"secrets_changed": secret} if secret else {})}
    _audit(conn, who, "change", current, {"spec": current.spec}, after)
    return _definition(row)


def remove(conn: Connection, kind: str, name_or_id: str, *, who: str) -> Definition:
    """Its row and secrets are gone; the audit keeps the spec. Raises NotFoundError."""
    found = get(conn, kind, name_or_id)
    conn.execute(delete(definitions).where(definitions.c.id == found.id))
    _audit(conn, who, "remove", found, {"spec": found.spec}, None)
    return found


def park(conn: Connection, definition: Definition, reason: str, *, who: str) -> bool:
    """Its tasks refuse to run, and say why, until it is changed or unparked.

    False if it is parked already, or was changed since it was read: then the reason may no longer hold.
    """
    table = definitions.c
    ours = (table.id == definition.id) & (table.version == definition.version) & table.parked.is_(None)
    cut = reason[:_PARKED_CHARS]
    if conn.execute(update(definitions).where(ours).values(parked=cut, updated_at=utc_now())).rowcount == 0:
        return False
    _audit(conn, who, "park", definition, None, {"parked": cut})
    return True


def unpark(conn: Connection, definition: Definition, *, who: str) -> bool:
    """Its tasks run again; False if it was not parked."""
    table = definitions.c
    parked = (table.id == definition.id) & table.parked.is_not(None)
    if conn.execute(update(definitions).where(parked).values(parked=None, updated_at=utc_now())).rowcount == 0:
        return False
    _audit(conn, who, "unpark", definition, {"parked": definition.parked}, None)
    return True


def load_state(conn: Connection, definition: Definition, *, lock: bool = False) -> dict[str, Any]:
    """What its tasks have kept, read now; with `lock`, nobody else writes it until the transaction ends.

    Raises NotFoundError if the definition is gone.
    """
    query = select(definitions.c.state).where(definitions.c.id == definition.id)
    state: dict[str, Any] | None = conn.execute(query.with_for_update() if lock else query).scalar()
    if state is None:
        raise NotFoundError(definition.kind, definition.name, "It was removed meanwhile.")
    return state


def save_state(conn: Connection, definition: Definition, state: Mapping[str, Any]) -> None:
    """Keep this for the next run, if the transaction commits. Raises NotFoundError if the definition is gone."""
    ours = definitions.c.id == definition.id
    if conn.execute(update(definitions).where(ours).values(state=dict(state))).rowcount == 0:
        raise NotFoundError(definition.kind, definition.name, "It was removed meanwhile: nothing was kept.")


def differences(current: Definition | None, checked: Checked, keyring: KeyringOf) -> list[Change]:
    """What differs between the row and a spec, field by field. A secret that no longer opens counts as changed."""
    before = _flat(current.spec if current else {}, ())
    after = _flat(checked.plain, ())
    changed = [
        Change(dotted(path), before.get(path), after.get(path))
        for path in {**after, **before}
        if before.get(path) != after.get(path)
    ]
    if current is not None and checked.secrets:
        known = _opened(current, keyring)
        shown = {change.field for change in changed}
        differing = [dotted(path) for path, value in checked.secrets.items() if known.get(path) != value]
        changed += [Change(path, MASK, MASK) for path in differing if path not in shown]
    return changed


def _opened(current: Definition, keyring: KeyringOf) -> dict[Any, str]:
    try:
        return unseal(current, keyring)
    except SecretError:
        keyring()  # without any key the new secret cannot be sealed either: say so
        return {}


def _flat(value: Any, path: tuple[str | int, ...]) -> dict[tuple[str | int, ...], Any]:
    if isinstance(value, Mapping) and value:
        items = cast("Mapping[str, Any]", value).items()
        return {k: v for step, item in items for k, v in _flat(item, (*path, step)).items()}
    return {path: value} if path else {}


def _one_writer(conn: Connection) -> None:
    # Two that add the same name wait for each other, instead of one failing on the constraint.
    name = f"{schema_of(conn)}.definitions"
    conn.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def _definition(row: RowMapping) -> Definition:
    return Definition(**{name: row[name] for name in _COLUMNS})


def _audit(
    conn: Connection,
    who: str,
    action: str,
    definition: Definition,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    values = {"at": utc_now(), "who": who, "action": action, "kind": definition.kind, "name": definition.name}
    conn.execute(insert(audit).values(**values, before=before, after=after))
