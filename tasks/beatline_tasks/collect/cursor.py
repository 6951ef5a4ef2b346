"""The incremental cursor: how far a source has been read, and what of it is read again. Pure.

A position is (field, tie-break). Without a tie-break the rows at the position are read again, since more may have come
with the same value; with one, only rows past it. The overlap is read again in any case: that is where late rows are
found. Whatever is read again is told apart by the natural key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from beatline.datasets.columns import Value, convert
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.source import CursorSpec, Source


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a source; `tie` is None where no tie-break is declared."""

    value: Value
    tie: Value | None = None


def passes(position: Position, other: Position) -> bool:
    """Whether a position lies behind another in the order of the source."""
    ours: Any = position.value
    theirs: Any = other.value
    if ours != theirs:
        return bool(ours > theirs)
    tie: Any = position.tie
    return tie is not None and other.tie is not None and bool(tie > other.tie)


def dump(spec: CursorSpec, position: Position) -> dict[str, Any]:
    """The position as it is kept in the definition's state."""
    return {
        "field": spec.field,
        "value": _text(position.value),
        "tie_break": spec.tie_break,
        "tie": None if position.tie is None else _text(position.tie),
    }


def load(source: Source, kept: Mapping[str, Any]) -> Position | None:
    """The position that was kept; None if it was kept for other fields or types: then all is read again."""
    spec = source.cursor
    if spec is None or kept.get("field") != spec.field or kept.get("tie_break") != spec.tie_break:
        return None
    try:
        value = convert(kept.get("value"), source.type_of(spec.field))
        tie = None if spec.tie_break is None else convert(kept.get("tie"), source.type_of(spec.tie_break))
    except ValueError:
        return None
    return None if value is None else Position(value, tie)


def lower_bound(spec: CursorSpec, position: Position) -> Value:
    """The least value that is read again: the position's, less the overlap."""
    value = position.value
    if isinstance(value, bool | str):
        return value
    if isinstance(value, date):
        try:
            return value - timedelta(seconds=spec.overlap_s)
        except OverflowError:
            return datetime.min.replace(tzinfo=value.tzinfo) if isinstance(value, datetime) else date.min
    lower = value - spec.overlap
    return int(lower) if isinstance(value, int) else lower


def is_known(spec: CursorSpec, start: Position | None, row: Position) -> bool:
    """Whether a row lies before what this run has to read."""
    if start is None:
        return False
    lower: Any = lower_bound(spec, start)
    if row.value < lower:
        return True
    if spec.overlap or spec.overlap_s or spec.tie_break is None:
        return False
    return not passes(row, start)


def request_params(spec: CursorSpec, start: Position | None) -> dict[str, str]:
    """The request's parameters that ask only for what is not known; none on the first run."""
    if start is None or spec.param is None:
        return {}
    params = {spec.param: _text(lower_bound(spec, start))}
    if spec.tie_param and start.tie is not None and not (spec.overlap or spec.overlap_s):
        params[spec.tie_param] = _text(start.tie)
    return params


class Progress:
    """The highest position seen in a run; holds an ordered source to its promise."""

    def __init__(self, spec: CursorSpec, start: Position | None) -> None:
        self._spec = spec
        self._last: Position | None = None
        self.highest = start

    def see(self, row: Position) -> None:
        """Take one row in. Raises SourceError if an ordered source is not in order."""
        if self._spec.ordered:
            if self._last is not None and passes(self._last, row):
                raise OutOfOrderError(self._spec.field, _text(row.value), _text(self._last.value))
            self._last = row
        if self.highest is None or passes(row, self.highest):
            self.highest = row


class OutOfOrderError(SourceError):
    """A source declared `ordered` is not."""

    def __init__(self, field: str, value: str, last: str) -> None:
        self.field, self.value, self.last = field, value, last
        super().__init__(
            f"A row with {field} {value} came after one with {last}, and the cursor is declared ordered: "
            "set cursor.ordered = false."
        )


def _text(value: Value) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else str(value)
