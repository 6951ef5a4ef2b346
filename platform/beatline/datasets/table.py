"""Datasets: tables that tasks fill, one row for each natural key.

A dataset has the key and the declared fields as columns, the rest of a row in `doc`, and when and by which run it was
last changed. It is made on first use; a column may be added later, a type or the key may not change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Double,
    MetaData,
    Table,
    Text,
    func,
    insert,
    inspect,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, distinct_on
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.schema import CreateSchema, CreateTable
from sqlalchemy.types import TypeEngine

from beatline.clock import utc_now
from beatline.datasets.columns import SEQUENCE, ColumnType
from beatline.errors import DatasetError
from beatline.ledger.database import quoted
from beatline.ledger.model import DATA_SCHEMA, datasets

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TYPES: Final[Mapping[str, TypeEngine[Any]]] = {
    "text": Text(),
    "integer": BigInteger(),
    "number": Double(),
    "boolean": Boolean(),
    "date": Date(),
    "timestamp": DateTime(timezone=True),
}
_INCOMING: Final = "beatline_incoming"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of stored rows: how many were new, how many changed; the others stood already."""

    new: int = 0
    changed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.new + other.new, self.changed + other.changed)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that stands; `made` tells it from one of the same name that stood there before."""

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, ColumnType]
    made: str

    @property
    def table(self) -> Table:
        """The table, as SQLAlchemy sees it; the engine fills in the schema's name."""
        return _table(self.name, self.key, self.columns)

    def merge(self, conn: Connection, rows: IO[bytes], run_id: str) -> Counts:
        """Store rows in the caller's transaction; of rows with the same key the last one counts.

        `rows` is in PostgreSQL's COPY format: a number that grows, the columns in order, the rest as JSON.
        """
        incoming = _incoming(self.columns)
        conn.execute(CreateTable(incoming))
        _copy(conn, rows)
        counts = conn.execute(_merge(self.table, incoming, self.key, run_id)).one()
        conn.execute(text(f"DROP TABLE {_INCOMING}"))
        return Counts(int(counts.new), int(counts.changed))


def check_dataset_name(name: str) -> None:
    """Raises DatasetError if the name cannot be a table's."""
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"The name {name[:80]!r} of the dataset cannot be a table's: lower-case letters, digits and underscore, a "
            "letter first, at most 63. Set dataset."
        )


def open_dataset(conn: Connection, name: str, key: Sequence[str], columns: Mapping[str, ColumnType]) -> Dataset:
    """The dataset, made if it does not stand, with the columns added that it lacks; `columns` holds the key's, too.

    In the caller's transaction; two at once wait for one another. Raises DatasetError if it cannot take such rows.
    """
    check_dataset_name(name)
    conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"beatline dataset {name}", 0))))
    found = find_dataset(conn, name)
    if found is None:
        return _make(conn, name, tuple(key), columns)
    _check_key(name, found.key, key)
    added: dict[str, ColumnType] = {field: kind for field, kind in columns.items() if field not in found.columns}
    for field, kind in columns.items():
        if found.columns.get(field, kind) != kind:
            raise DatasetError(
                f"The dataset {name} has {field!r} as {found.columns[field]}, and {kind} is declared: "
                "declare it alike, or set another dataset."
            )
    dataset = Dataset(name, found.key, {**found.columns, **added}, found.made)
    if not inspect(conn).has_table(name, schema=_data_schema(conn)):
        return _make_again(conn, dataset)
    if added:
        _add_columns(conn, dataset, added)
    return dataset


def find_dataset(conn: Connection, name: str) -> Dataset | None:
    """The dataset of this name; None if there is none."""
    row = conn.execute(select(datasets).where(datasets.c.name == name)).one_or_none()
    if row is None:
        return None
    return Dataset(name, tuple(row.key), cast("dict[str, ColumnType]", dict(row.columns)), row.created_at.isoformat())


def _check_key(name: str, stands: Sequence[str], wanted: Sequence[str]) -> None:
    if set(stands) != set(wanted):
        raise DatasetError(
            f"The dataset {name} has the key {', '.join(stands)}, and {', '.join(wanted)} is declared: "
            "declare the same key, or set another dataset."
        )


def _make(conn: Connection, name: str, key: tuple[str, ...], columns: Mapping[str, ColumnType]) -> Dataset:
    schema = _data_schema(conn)
    if inspect(conn).has_table(name, schema=schema):
        raise DatasetError(f"{schema}.{name} is a table that Beatline did not make: set another dataset.")
    conn.execute(CreateSchema(schema, if_not_exists=True))
    now = utc_now()
    dataset = Dataset(name, key, columns, now.isoformat())
    conn.execute(CreateTable(dataset.table))
    row = {"name": name, "key": list(dataset.key), "columns": dict(dataset.columns), "created_at": now}
    conn.execute(insert(datasets).values(row))
    return dataset


def _make_again(conn: Connection, dataset: Dataset) -> Dataset:
    """A table that someone dropped is made anew, and `made` says that it holds nothing yet."""
    now = utc_now()
    conn.execute(CreateTable(dataset.table))
    _register(conn, dataset, created_at=now)
    return Dataset(dataset.name, dataset.key, dataset.columns, now.isoformat())


def _add_columns(conn: Connection, dataset: Dataset, added: Mapping[str, ColumnType]) -> None:
    table = f"{quoted(_data_schema(conn))}.{quoted(dataset.name)}"
    for field in added:
        kind = _TYPES[dataset.columns[field]].compile(dialect=conn.dialect)
        name = quoted(field).replace(":", "\\:")  # text() reads :name as a parameter
        conn.execute(text(f"ALTER TABLE {table} ADD COLUMN {name} {kind}"))
    _register(conn, dataset)


def _register(conn: Connection, dataset: Dataset, **values: object) -> None:
    statement = update(datasets).where(datasets.c.name == dataset.name)
    conn.execute(statement.values(columns=dict(dataset.columns), **values))


def _table(name: str, key: tuple[str, ...], columns: Mapping[str, ColumnType]) -> Table:
    return Table(
        name,
        MetaData(schema=DATA_SCHEMA),
        *(
            Column(field, _TYPES[kind], primary_key=field in key, autoincrement=False)
            for field, kind in columns.items()
        ),
        Column("doc", JSONB, nullable=False),
        Column("fetched_at", DateTime(timezone=True), nullable=False),
        Column("run_id", Text, nullable=False),
    )


def _incoming(columns: Mapping[str, ColumnType]) -> Table:
    return Table(
        _INCOMING,
        MetaData(),
        Column(SEQUENCE, BigInteger, nullable=False),
        *(Column(field, _TYPES[kind]) for field, kind in columns.items()),
        Column("doc", JSONB, nullable=False),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )


def _merge(table: Table, incoming: Table, key: tuple[str, ...], run_id: str) -> Any:
    """One statement that stores what is new or changed and counts both."""
    compared = [column.name for column in incoming.columns if column.name != SEQUENCE and column.name not in key]
    keys = [incoming.c[field] for field in key]
    newest = (
        select(*(incoming.c[n] for n in (*key, *compared)), literal(utc_now()), literal(run_id))
        .ext(distinct_on(*keys))
        .order_by(*keys, incoming.c[SEQUENCE].desc())
    )
    names = [*key, *compared, "fetched_at", "run_id"]
    put = pg_insert(table).from_select(names, newest)
    put = put.on_conflict_do_update(
        index_elements=[table.c[field] for field in key],
        set_={name: put.excluded[name] for name in names if name not in key},
        where=or_(*(table.c[name].is_distinct_from(put.excluded[name]) for name in compared)),
    )
    # xmax is 0 in a row that was inserted, and the updating transaction's id in one that was updated.
    written = put.returning(literal_column("xmax = 0", Boolean).label("fresh")).cte("written")
    return select(
        func.count().filter(written.c.fresh).label("new"), func.count().filter(~written.c.fresh).label("changed")
    )


class _Copies(Protocol):
    def copy_expert(self, sql: str, file: IO[bytes]) -> None: ...
    def close(self) -> None: ...


def _copy(conn: Connection, rows: IO[bytes]) -> None:
    cursor = cast("_Copies", conn.connection.cursor())
    try:
        cursor.copy_expert(f"COPY {_INCOMING} FROM STDIN", rows)
    finally:
        cursor.close()


def _data_schema(conn: Connection) -> str:
    return cast("Mapping[str, str]", conn.get_execution_options()["schema_translate_map"])[DATA_SCHEMA]
