"""Changes the key of everything that is sealed, in batches, while workers run; broken off, it goes on where it was.

A row is locked while its bytes are sealed anew, and a locked one is left for the next pass: nobody waits for two rows.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Connection, Engine, TextClause

from beatline.errors import SecretError
from beatline.families import Sealed, families
from beatline.ledger.database import quoted, sql
from beatline.secrets import Keyring, head_of, key_id_of

if TYPE_CHECKING:
    from beatline.installation import Installation

OURS: Final = (
    Sealed("definitions", "secrets", ("id",), "definition:{id}", "{kind} {name}", shown=("kind", "name")),
    Sealed("runs", "message", ("day", "id"), "run:{id}", "run {id}"),
)
EVENTS: Final = "parked_events"
UNREADABLE: Final = "(damaged)"
_BATCH: Final = 200
_PASSES: Final = 5
_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Held:
    """How many rows of a table a key holds."""

    table: str
    key: str
    rows: int


@dataclass(slots=True)
class Rotated:
    """What was done and how it stands now; `unopened` names the first rows that no key of ours opens."""

    first: str
    rotated: int = 0
    unopened: list[str] = field(default_factory=list[str])
    held: list[Held] = field(default_factory=list[Held])

    @property
    def left(self) -> list[Held]:
        """What other keys than the first still hold."""
        return [held for held in self.held if held.key != self.first]


def rotate(installation: Installation) -> Rotated:
    """Seal everything with the first key. Safe beside workers and another rotation; running twice changes nothing."""
    keyring, engine = installation.keyring, installation.engine
    done = Rotated(keyring.first)
    sealed = (*OURS, *(one for family in families().values() for one in family.sealed))
    for column in sealed:
        _rotate_column(engine, keyring, column, done)
    _rotate_events(engine, keyring, done)
    with engine.connect() as conn:
        done.held = [held for column in sealed for held in _count(conn, column)] + _count_events(conn)
    return done


def _rotate_column(engine: Engine, keyring: Keyring, column: Sealed, done: Rotated) -> None:
    for _ in range(_PASSES):
        left = _one_pass(engine, keyring, column, done)
        if not left:
            return


def _one_pass(engine: Engine, keyring: Keyring, column: Sealed, done: Rotated) -> bool:
    """Once through the table in the order of its key; whether a locked row was left out."""
    after: dict[str, Any] | None = None
    seen = 0
    failed: list[str] = []
    with engine.connect() as conn:
        waiting = conn.execute(*_waiting(conn, column, done.first)).scalar_one()
    while True:
        with engine.begin() as conn:
            rows = [dict(row) for row in conn.execute(*_batch(conn, column, done.first, after)).mappings()]
            for row in rows:
                seen += 1
                _seal_again(conn, keyring, column, row, done, failed)
        if len(rows) < _BATCH:
            done.unopened += [text for text in failed if text not in done.unopened][: _NAMED - len(done.unopened)]
            return bool(waiting > seen)
        after = {name: rows[-1][name] for name in column.key}


def _seal_again(
    conn: Connection, keyring: Keyring, column: Sealed, row: Mapping[str, Any], done: Rotated, failed: list[str]
) -> None:
    bound_to = column.bound_to.format_map(row)
    try:
        plain = keyring.decrypt(bytes(row[column.column]), bound_to=bound_to)
    except SecretError as exc:
        failed.append(f"{column.called.format_map(row)}: {exc}")
        return
    where = " AND ".join(f"{quoted(name)} = :{name}" for name in column.key)
    statement = sql(
        conn,
        f"UPDATE {{schema}}.{quoted(column.table)} SET {quoted(column.column)} = :sealed WHERE {where}",  # noqa: S608  # quoted
    )
    values = {name: row[name] for name in column.key}
    conn.execute(statement, values | {"sealed": keyring.encrypt(plain, bound_to=bound_to)})
    done.rotated += 1


def _batch(
    conn: Connection, column: Sealed, first: str, after: Mapping[str, Any] | None
) -> tuple[TextClause, dict[str, Any]]:
    key, names = ", ".join(map(quoted, column.key)), (*column.key, *column.shown, column.column)
    past = "" if after is None else f"AND ({key}) > ({', '.join(f':{name}' for name in column.key)})"
    statement = (
        f"SELECT {', '.join(map(quoted, names))} FROM {_foreign(column)} {past} ORDER BY {key} LIMIT {_BATCH} "  # noqa: S608
        "FOR UPDATE SKIP LOCKED"
    )
    return sql(conn, statement), {"head": head_of(first), **(after or {})}


def _waiting(conn: Connection, column: Sealed, first: str) -> tuple[TextClause, dict[str, Any]]:
    return sql(conn, f"SELECT count(*) FROM {_foreign(column)}"), {"head": head_of(first)}  # noqa: S608


def _foreign(column: Sealed) -> str:
    """The table with the condition that its bytes are sealed with another key than the first."""
    name = quoted(column.column)
    return (
        f"{{schema}}.{quoted(column.table)} WHERE {name} IS NOT NULL "
        f"AND substring({name} FROM 1 FOR length(CAST(:head AS bytea))) <> CAST(:head AS bytea)"
    )


def _count(conn: Connection, column: Sealed) -> Iterator[Held]:
    name = quoted(column.column)
    statement = (
        "SELECT CASE WHEN length(COL) > 14 AND get_byte(COL, 0) = 1 THEN "
        "encode(substring(COL FROM 3 FOR get_byte(COL, 1)), 'escape') ELSE :unreadable END AS key, count(*) AS rows "
        "FROM {schema}.TABLE WHERE COL IS NOT NULL GROUP BY 1 ORDER BY 1"
    )
    whole = statement.replace("COL", name).replace("TABLE", quoted(column.table))
    for row in conn.execute(sql(conn, whole), {"unreadable": UNREADABLE}):
        yield Held(column.table, str(row.key), int(row.rows))


def _rotate_events(engine: Engine, keyring: Keyring, done: Rotated) -> None:
    """Events that could not be applied hold the message of their run in JSON."""
    with engine.begin() as conn:
        query = sql(conn, "SELECT stream_id, payload FROM {schema}.parked_events ORDER BY 1 FOR UPDATE SKIP LOCKED")
        for row in conn.execute(query).all():
            said, sealed = _message_of(row.payload)
            if said is None or key_id_of(sealed) == done.first:
                continue
            bound_to = f"event:{row.stream_id}"
            try:
                plain = keyring.decrypt(sealed, bound_to=bound_to)
            except SecretError as exc:
                done.unopened += [f"event {row.stream_id}: {exc}"][: _NAMED - len(done.unopened)]
                continue
            said["message"] = b64encode(keyring.encrypt(plain, bound_to=bound_to)).decode("ascii")
            update = sql(conn, "UPDATE {schema}.parked_events SET payload = :payload WHERE stream_id = :id")
            conn.execute(update, {"payload": json.dumps(said), "id": row.stream_id})
            done.rotated += 1


def _count_events(conn: Connection) -> list[Held]:
    counted: dict[str, int] = {}
    for payload in conn.execute(sql(conn, "SELECT payload FROM {schema}.parked_events")).scalars():
        said, sealed = _message_of(payload)
        if said is not None:
            key = key_id_of(sealed) or UNREADABLE
            counted[key] = counted.get(key, 0) + 1
    return [Held(EVENTS, key, rows) for key, rows in sorted(counted.items())]


def _message_of(payload: str) -> tuple[dict[str, Any] | None, bytes]:
    """A parked event and the sealed message in it; None if it holds none."""
    try:
        said: object = json.loads(payload)
        message = cast("dict[str, Any]", said).get("message") if isinstance(said, dict) else None
        sealed = b64decode(message, validate=True) if isinstance(message, str) else b""
    except (ValueError, RecursionError):
        return None, b""
    return (cast("dict[str, Any]", said), sealed) if sealed else (None, b"")
