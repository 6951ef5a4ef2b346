"""A transform in DuckDB, the extra: rows go there and back as CSV; it reaches no file but theirs, and no network."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from typing import Any, Final, Protocol, cast

from beatline.ledger.database import quoted
from beatline_tasks.etl import fieldtypes
from beatline_tasks.etl.contract import Field
from beatline_tasks.etl.disk import disk_in_words
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.incoming import Incoming, create_table
from beatline_tasks.etl.session import Session

_OUTPUT: Final = "pg_temp.beatline_output"
_WHAT: Final = "The transform"
_MEMORY: Final = "64MB"
_LINE_BYTES: Final = 2 * 2**20
"""The longest row; the library reads sixteen of them at once unless told otherwise."""
_NULL: Final = "\\N"
_SAME: Final = {
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "double precision": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    fieldtypes.TIMESTAMP: "TIMESTAMPTZ",
    fieldtypes.NAIVE: "TIMESTAMP",
    "json": "JSON",
    "jsonb": "JSON",
    "uuid": "UUID",
}
_BACK: Final = {
    "TINYINT": "smallint",
    "SMALLINT": "smallint",
    "INTEGER": "integer",
    "BIGINT": "bigint",
    "UTINYINT": "smallint",
    "USMALLINT": "integer",
    "UINTEGER": "bigint",
    "UBIGINT": "numeric",
    "HUGEINT": "numeric",
    "UHUGEINT": "numeric",
    "FLOAT": "real",
    "DOUBLE": "double precision",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": fieldtypes.NAIVE,
    "TIMESTAMP_S": fieldtypes.NAIVE,
    "TIMESTAMP_MS": fieldtypes.NAIVE,
    "TIMESTAMP WITH TIME ZONE": fieldtypes.TIMESTAMP,
    "JSON": "jsonb",
    "UUID": "uuid",
}
_MOST_DIGITS: Final = 38


class _Duck(Protocol):
    def execute(self, sql: str, values: Sequence[object] | None = None) -> _Duck: ...
    def fetchall(self) -> list[tuple[Any, ...]]: ...
    def interrupt(self) -> None: ...
    def close(self) -> None: ...


def transform_in_duckdb(
    session: Session, incoming: Incoming, sql: str, statement_timeout_s: float
) -> tuple[list[Field], int]:
    """Stage what DuckDB makes of the incoming rows: its fields, and how many.

    Raises JobError; TransientError if the disk is full.
    """
    with disk_in_words(_WHAT), tempfile.TemporaryDirectory(prefix="beatline-etl-") as name:
        folder = Path(name)
        source, result = folder / "input.csv", folder / "output.csv"
        with source.open("wb") as file:
            names = ", ".join(quoted(one.name) for one in incoming.fields)
            query = f"{incoming.prefix} SELECT {names} FROM input"
            with session.read_only():
                session.copy_out(query, file, f"(FORMAT csv, NULL '{_NULL}', FORCE_QUOTE *)", what="The input")
        fields = _run(folder, source, result, incoming.fields, sql, statement_timeout_s)
        create_table(session, _OUTPUT, fields)
        with result.open("rb") as file:
            rows = session.copy_in(_OUTPUT, file, f"(FORMAT csv, HEADER, NULL '{_NULL}')", what=_WHAT)
    return fields, rows


def duck_fields(incoming: Incoming, sql: str, statement_timeout_s: float) -> list[Field]:
    """The fields a transform would give, tried on no rows. Raises JobError."""
    with tempfile.TemporaryDirectory(prefix="beatline-etl-") as name:
        folder = Path(name)
        source = folder / "input.csv"
        source.touch()
        return _run(folder, source, folder / "output.csv", incoming.fields, sql, statement_timeout_s)


def _run(
    folder: Path, source: Path, result: Path, fields: list[Field], sql: str, statement_timeout_s: float
) -> list[Field]:
    duck = _open(folder)
    late = Timer(statement_timeout_s, duck.interrupt)
    late.daemon = True
    late.start()
    try:
        names = ", ".join(f"{quoted(one.name)} {_to(one.kind)}" for one in fields)
        duck.execute(f"CREATE TABLE input ({names})")
        if source.stat().st_size:
            nulls = f"NULLSTR '{_NULL}', ALLOW_QUOTED_NULLS false"
            sizes = f"MAX_LINE_SIZE {_LINE_BYTES}, BUFFER_SIZE {2 * _LINE_BYTES}"
            duck.execute(f"COPY input FROM {_path(source)} (FORMAT csv, HEADER false, {nulls}, {sizes})")
        duck.execute(f"CREATE TABLE beatline_output AS SELECT * FROM (\n{sql}\n) AS transformed")
        described = duck.execute("DESCRIBE beatline_output").fetchall()
        found = [Field(str(row[0]), _from(str(row[1]))) for row in described]
        duck.execute(f"COPY beatline_output TO {_path(result)} (FORMAT csv, HEADER, NULLSTR '{_NULL}', FORCE_QUOTE *)")
    except _library().InterruptException as exc:
        raise JobError(f"{_WHAT}: took longer than statement_timeout_s allows, and was ended.") from exc
    except _duck_error() as exc:
        said = str(exc).strip().partition("\n")[0]
        raise JobError(f"{_WHAT}: DuckDB refuses it: {said}") from exc
    finally:
        late.cancel()
        late.join()  # or it would interrupt what is closed
        duck.close()
    return found


def _open(folder: Path) -> _Duck:
    duckdb = _library()
    duck = cast("_Duck", duckdb.connect(":memory:"))
    duck.execute("SET TimeZone = 'UTC'")
    duck.execute("SET threads = 1")
    duck.execute(f"SET memory_limit = '{_MEMORY}'")
    duck.execute(f"SET temp_directory = {_path(folder / 'spill')}")
    # What does not fit into memory lies there: a job fills no disk that others need.
    duck.execute(f"SET max_temp_directory_size = '{shutil.disk_usage(folder).free // 2} bytes'")
    duck.execute("SET autoinstall_known_extensions = false")
    duck.execute(f"SET allowed_directories = [{_path(folder)}]")
    duck.execute("SET enable_external_access = false")
    duck.execute("SET lock_configuration = true")
    return duck


def _library() -> Any:
    try:
        import duckdb
    except ImportError:
        raise JobError(
            "transform.engine is duckdb, and DuckDB is not installed on this worker: pip install 'beatline[duckdb]'."
        ) from None
    return duckdb


def _duck_error() -> type[Exception]:
    error: type[Exception] = _library().Error
    return error


def _path(path: Path) -> str:
    # A path that the operating system gave, not a value of a definition.
    return "'" + os.fspath(path).replace("'", "''") + "'"


def _to(kind: str) -> str:
    if fieldtypes.base(kind) == "numeric":
        bound = fieldtypes.limits(kind)
        exact = bound is not None and bound[0] <= _MOST_DIGITS and 0 <= bound[1] <= bound[0]
        return f"DECIMAL({bound[0]}, {bound[1]})" if bound is not None and exact else "DOUBLE"
    return _SAME.get(fieldtypes.base(kind), "VARCHAR")


def _from(kind: str) -> str:
    if kind.startswith("DECIMAL("):
        return "numeric" + kind.removeprefix("DECIMAL").replace(" ", "")
    return _BACK.get(kind, "text")
