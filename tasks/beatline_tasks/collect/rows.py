"""Rows: from a source's objects to typed columns and a rest in JSON, or refused with a reason. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from beatline.datasets.columns import Value, clean, convert, copy_text, shown
from beatline_tasks.collect.cursor import Position
from beatline_tasks.collect.source import Source

REASONS: Final = 3
"""How many reasons are told; the rest is counted."""
_KEY_BYTES: Final = 2000
"""PostgreSQL's index takes 2704 bytes an entry."""


class RowRefusedError(Exception):
    """A row that cannot be stored; says why."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that is no row at all."""

    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row ready for COPY: the fields of its columns, the rest as JSON, its place in the source."""

    fields: tuple[str, ...]
    doc: str
    position: Position | None


@dataclass(slots=True)
class Refusals:
    """How many rows were refused, and why the first few were."""

    count: int = 0
    reasons: list[str] = field(default_factory=list[str])

    def add(self, number: int, reason: str) -> None:
        """Count one; `number` is the row's place in its page, from 1."""
        self.count += 1
        if len(self.reasons) < REASONS:
            self.reasons.append(f"row {number}: {reason}")

    def __str__(self) -> str:
        return f"{self.count} refused ({'; '.join(self.reasons)})" if self.count else "none refused"


class RowReader:
    """Reads the rows of one source into given columns (those of its dataset, a superset of its own)."""

    def __init__(self, source: Source, columns: Mapping[str, Any]) -> None:
        self._key = frozenset(source.key)
        self._columns = dict(columns)
        self._cursor = source.cursor

    def read(self, raw: object) -> Row:
        """One row. Raises RowRefusedError."""
        if isinstance(raw, Unreadable):
            raise RowRefusedError(raw.reason)
        if not isinstance(raw, dict):
            raise RowRefusedError(f"{shown(raw)} is no object")
        rest = dict(cast("dict[object, object]", raw))
        if None in rest:
            raise RowRefusedError("it has more fields than the header")
        values: dict[str, Value | None] = {}
        for name, kind in self._columns.items():
            try:
                values[name] = convert(rest.pop(name, None), kind)
            except ValueError as exc:
                raise RowRefusedError(f"{name}: {exc}") from None
        self._check_key(values)
        return Row(tuple(copy_text(v) for v in values.values()), _json(rest), self._position(values))

    def _check_key(self, values: Mapping[str, Value | None]) -> None:
        size = 0
        for name in self._key:
            value = values[name]
            if value is None or value == "":
                raise RowRefusedError(f"the key field {name!r} is missing or empty")
            size += len(value.encode()) if isinstance(value, str) else 0
        if size > _KEY_BYTES:
            raise RowRefusedError(f"its key has {size} bytes and {_KEY_BYTES} are accepted")

    def _position(self, values: Mapping[str, Value | None]) -> Position | None:
        if self._cursor is None:
            return None
        value = values[self._cursor.field]
        tie = None if self._cursor.tie_break is None else values[self._cursor.tie_break]
        if value is None or (tie is None and self._cursor.tie_break is not None):
            raise RowRefusedError(f"the cursor field {self._cursor.field!r} or its tie-break is missing or empty")
        return Position(value, tie)


def _json(rest: Mapping[object, object]) -> str:
    try:
        text = json.dumps(clean(rest), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise RowRefusedError("a number is out of range, or it is nested too deep") from None
    return copy_text(text)
