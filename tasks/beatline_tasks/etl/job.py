"""A job as a person declares it: what it reads, how it transforms, where the rows go, what must hold; or what it archives."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from beatline.selects import one_select
from beatline_tasks.etl.fieldtypes import DeclaredType

_COLUMN_BYTES: Final = 63
"""PostgreSQL cuts a longer name silently."""
_IDENTIFIER: Final = re.compile(r"[^\x00.]{1,63}")

Contract = Literal["evolve", "freeze", "discard_row"]
Mode = Literal["upsert", "replace", "append"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _column(name: str) -> str:
    if not name or "\x00" in name or len(name.encode("utf-8", "replace")) > _COLUMN_BYTES:
        raise ValueError(f"{name[:80]!r} cannot be a column: 1 to {_COLUMN_BYTES} bytes, no NUL")
    if name.startswith("beatline_"):
        raise ValueError(f"{name!r}: names that begin with beatline_ are Beatline's own")
    return name


def _table(name: str) -> str:
    parts = name.split(".")
    if len(parts) > 2 or not all(_IDENTIFIER.fullmatch(part) for part in parts):
        raise ValueError(f"{name[:130]!r} is no table: write table or schema.table")
    return name


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name[:80]!r} is no time zone: Europe/Berlin, Asia/Shanghai, UTC …") from None
    return name


Column = Annotated[str, AfterValidator(_column)]
TableName = Annotated[str, AfterValidator(_table)]
Select = Annotated[str, AfterValidator(one_select)]
Zone = Annotated[str, AfterValidator(_zone)]


class Input(_Strict):
    """Where the rows come from: a dataset, or a query or table of a named connection."""

    dataset: str | None = Field(default=None, description="a dataset, or a table that another job fills")
    connection: str | None = Field(default=None, description="a named connection, with query or table")
    query: Select | None = Field(default=None, description="one SELECT")
    table: TableName | None = Field(default=None, description="table or schema.table")

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if (self.dataset is None) == (self.connection is None):
            raise ValueError("name a dataset, or a connection with query or table")
        if self.dataset is not None and (self.query or self.table):
            raise ValueError("query and table go with a connection; a dataset is read whole, transform.sql selects")
        if self.connection is not None and (self.query is None) == (self.table is None):
            raise ValueError("a connection goes with a query, or with a table")
        return self


class Transform(_Strict):
    """A SELECT over `input`, the incoming rows. In PostgreSQL it runs where the target is, and may write nothing.

    In DuckDB numbers of type numeric without a precision arrive as DOUBLE.
    """

    sql: Select = Field(description="one SELECT … FROM input")
    engine: Literal["postgresql", "duckdb"] = "postgresql"


class Output(_Strict):
    """Where the rows go, and how.

    upsert: new rows go in, rows of a known key are brought up to date. replace: the table holds the rows of the last run
    and no others. append: rows are added, those of one run once; with a key, those whose key stands are left out.

    The contract says what happens when fields differ from the table. New field: evolve adds a column, freeze fails,
    discard_row rejects rows that fill it. Missing: evolve leaves the column empty, or as it was; freeze and discard_row
    fail. Of another type: evolve widens the column where nothing is lost, freeze fails; else, and with discard_row,
    each value that the column can hold unchanged is taken and the other rows are rejected.
    """

    table: TableName = Field(description="in the schema of the datasets; with a connection: table or schema.table")
    connection: str | None = Field(default=None, description="a named connection with read_only = false")
    mode: Mode
    key: tuple[Column, ...] = Field(default=(), description="the fields that tell one row from another")
    columns: dict[Column, DeclaredType] = Field(default_factory=dict, description="types; the rest is as it comes")
    contract: Contract = "evolve"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.mode == "upsert" and not self.key:
            raise ValueError("mode upsert needs a key")
        if len(set(self.key)) != len(self.key):
            raise ValueError("key names a field twice")
        if self.connection is None and "." in self.table:
            raise ValueError("table is in the schema of the datasets: leave the schema's name out")
        return self


class Watermark(_Strict):
    """Which field tells new rows of the input from those read before; the overlap before it is read again each time.

    The highest value is committed with the rows. Rows with the same value, with none, or within the overlap are read
    again: the key tells them apart.
    """

    field: Column
    overlap_s: float = Field(default=0, ge=0, le=3.2e9, description="seconds, for a date or time stamp")
    overlap: float = Field(default=0, ge=0, description="units, for a number")


class _Check(_Strict):
    severity: Literal["warn", "block"] = "block"


class NotNull(_Check):
    """No row of the load leaves one of the columns empty."""

    type: Literal["not_null"]
    columns: tuple[Column, ...] = Field(min_length=1)


class Unique(_Check):
    """No two rows of the target have the same values in the columns."""

    type: Literal["unique"]
    columns: tuple[Column, ...] = Field(min_length=1)


class Range(_Check):
    """The column of every row of the load lies within the bounds, themselves included."""

    type: Literal["range"]
    column: Column
    min: int | float | str | None = None
    max: int | float | str | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max, or both")
        return self


class RowCountChange(_Check):
    """The number of rows of the load is within these per cent of the last load's; the first load passes."""

    type: Literal["row_count_change"]
    max_drop_pct: float | None = Field(default=None, ge=0, le=100)
    max_rise_pct: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.max_drop_pct is None and self.max_rise_pct is None:
            raise ValueError("give max_drop_pct, max_rise_pct, or both")
        return self


class Sql(_Check):
    """The SELECT finds no row. It sees `output`, the rows of the load, and `target`, the table with them in it."""

    type: Literal["sql"]
    name: str = Field(min_length=1, max_length=100, description="what it stands for, as it is told")
    sql: Select


Check = Annotated[NotNull | Unique | Range | RowCountChange | Sql, Field(discriminator="type")]


class Archive(_Strict):
    """Which rows go into compressed files and out of the table, a day of the zone at a time."""

    dataset: TableName
    time_column: Column
    zone: Zone = "UTC"
    older_than_days: int = Field(default=1, ge=1, le=36_500, description="1: yesterday and what is older")
    format: Literal["csv", "jsonl"] = "csv"
    keep_days: int | None = Field(default=None, ge=1, description="how long the files are kept; unset: for ever")


class Job(_Strict):
    """What etl works on: a load (input and output) for etl.run_job, or an archive for etl.archive."""

    input: Input | None = None
    transform: Transform | None = None
    output: Output | None = None
    watermark: Watermark | None = None
    checks: tuple[Check, ...] = ()
    archive: Archive | None = None
    statement_timeout_s: float = Field(default=900, gt=0, le=3400, description="the longest one statement may take")
    rejected_kept: int = Field(default=1000, ge=0, le=100_000, description="rejected rows that a run keeps, at most")

    @model_validator(mode="after")
    def _is_load_or_archive(self) -> Self:
        if self.archive is not None:
            given = [name for name in ("input", "transform", "output", "watermark", "checks") if getattr(self, name)]
            if given:
                raise ValueError(f"a job with archive has no {' and no '.join(given)}: make two jobs")
        elif self.input is None or self.output is None:
            raise ValueError("a job has input and output, or archive")
        elif self.watermark is not None:
            self._check_watermark(self.output)
        return self

    def _check_watermark(self, output: Output) -> None:
        if output.mode == "replace":
            raise ValueError("watermark reads what is new, and mode replace would drop the rest: upsert or append")
        if not output.key:
            raise ValueError("watermark: mode append needs output.key then: what is read again is told apart by it")
