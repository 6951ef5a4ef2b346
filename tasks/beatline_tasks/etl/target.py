"""The table that a job fills: as it stands, made, changed as its contract allows, and loaded by upsert or append."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from beatline.ledger.database import quoted
from beatline_tasks.etl.contract import Column, Plan
from beatline_tasks.etl.ends import Target
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.fieldtypes import DECLARED
from beatline_tasks.etl.job import Output
from beatline_tasks.etl.session import Session, Table

WHAT: Final = "The load"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of the rows: `new` ones stand now, `changed` ones are others than before, the rest stood already."""

    new: int
    changed: int


def columns_of(session: Session, table: Table) -> dict[str, Column] | None:
    """The table's columns by name; None if there is no such table. Raises JobError if it is none that takes rows."""
    name = session.let("table", table.sql)
    found = session.rows(f"SELECT relkind FROM pg_class WHERE oid = to_regclass({name})")
    if not found:
        return None
    if found[0][0] not in ("r", "p"):
        raise JobError(f"{table} is no table but a view or the like: set another output.table.")
    rows = session.rows(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, "
        "attnotnull AND NOT atthasdef AND attidentity = '', attgenerated <> '' OR attidentity = 'a' "
        f"FROM pg_attribute WHERE attrelid = to_regclass({name}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return {str(name): Column(str(kind), not_null, needed, fixed) for name, kind, not_null, needed, fixed in rows}


def make(session: Session, target: Target, plan: Plan, output: Output) -> None:
    """Make the table with the plan's columns, and its key as primary key."""
    if target.own:
        session.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(target.table.schema)}", what=WHAT)
    kinds = dict(plan.added) | {take.name: take.stands for take in plan.takes}
    kinds |= {name: kind for name, kind in _declared(plan, output).items() if name not in kinds}
    columns = [f"{quoted(name)} {kind}" for name, kind in kinds.items()]
    if output.key:
        columns.append(f"PRIMARY KEY ({names(output.key)})")
    session.run(f"CREATE TABLE {target.table.sql} ({', '.join(columns)})", what=f"Making the table {target.table}")


def change(session: Session, table: Table, plan: Plan) -> None:
    """Add and widen columns as planned. Views that read a widened column forbid it: the error names them."""
    for name, kind in plan.added.items():
        session.run(f"ALTER TABLE {table.sql} ADD COLUMN {quoted(name)} {kind}", what=f"Adding {name} to {table}")
    for name, kind in plan.widened.items():
        statement = f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(name)} TYPE {kind}"
        session.run(statement, what=f"Widening {name} of {table}")


def check_key(session: Session, table: Table, key: tuple[str, ...]) -> None:
    """Return only if the table has a unique index on the key: without one nothing tells rows apart."""
    name = session.let("table", table.sql)
    indexes = session.rows(
        "SELECT array_agg(CAST(a.attname AS text)) FROM pg_index i "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) "
        f"WHERE i.indrelid = to_regclass({name}) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL "
        "AND i.indexprs IS NULL GROUP BY i.indexrelid"
    )
    if not any(set(columns) == set(key) for (columns,) in indexes):
        raise JobError(
            f"{table} has no unique index on its key: CREATE UNIQUE INDEX ON {table.sql} ({names(key)}); or correct "
            "output.key."
        )


def upsert(session: Session, table: Table, rows: str, plan: Plan, key: tuple[str, ...]) -> Loaded:
    """Store what is new or changed; of rows with the same key the last one counts."""
    rest = [take for take in plan.takes if take.name not in key]
    # json has no equality; its text has one.
    differs = " OR ".join(
        f"CAST(t.{n} AS text) IS DISTINCT FROM CAST(EXCLUDED.{n} AS text)"
        if take.stands == "json"
        else f"t.{n} IS DISTINCT FROM EXCLUDED.{n}"
        for take in rest
        for n in (quoted(take.name),)
    )
    sets = ", ".join(f"{quoted(take.name)} = EXCLUDED.{quoted(take.name)}" for take in rest)
    action = f"DO UPDATE SET {sets} WHERE {differs}" if rest else "DO NOTHING"
    # xmax is 0 in a row that was inserted, and the updating transaction's id in one that was updated.
    new, written = session.one(
        f"WITH written AS ({_insert(table, plan)} {_last_of_each(rows, plan, key)} "
        f"ON CONFLICT ({names(key)}) {action} RETURNING (xmax = 0) AS fresh) "
        "SELECT count(*) FILTER (WHERE fresh), count(*) FROM written",
        what=WHAT,
    )
    return Loaded(int(new), int(written) - int(new))


def append(session: Session, table: Table, rows: str, plan: Plan, key: tuple[str, ...]) -> Loaded:
    """Add the rows; with a key, those whose key stands already are left out."""
    if not key:
        return Loaded(insert_last(session, table, rows, plan, key), 0)
    statement = f"{_insert(table, plan)} {_last_of_each(rows, plan, key)} ON CONFLICT ({names(key)}) DO NOTHING"
    return Loaded(session.run(statement, what=WHAT), 0)


def insert_last(session: Session, table: Table, rows: str, plan: Plan, key: tuple[str, ...]) -> int:
    """Fill an empty table, with the last row of each key, or with all rows where there is no key; how many."""
    columns = names(take.name for take in plan.takes)
    source = _last_of_each(rows, plan, key) if key else f"SELECT {columns} FROM ({rows}) AS chosen"
    return session.run(f"{_insert(table, plan)} {source}", what=WHAT)


def _last_of_each(rows: str, plan: Plan, key: tuple[str, ...]) -> str:
    """The SELECT of the last row of each key."""
    columns, keys = names(take.name for take in plan.takes), names(key)
    return f"SELECT DISTINCT ON ({keys}) {columns} FROM ({rows}) AS chosen ORDER BY {keys}, beatline_row DESC"


def names(columns: Iterable[str]) -> str:
    """Names of columns as they stand in a statement."""
    return ", ".join(map(quoted, columns))


def _insert(table: Table, plan: Plan) -> str:
    return f"INSERT INTO {table.sql} AS t ({names(take.name for take in plan.takes)})"


def _declared(plan: Plan, output: Output) -> dict[str, str]:
    return {name: DECLARED[output.columns[name]] for name in plan.missing if name in output.columns}
