"""Values of declared columns: from what a source says to what PostgreSQL stores. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Final, Literal, cast, get_args

ColumnType = Literal["text", "integer", "number", "boolean", "date", "timestamp"]
COLUMN_TYPES: Final[tuple[str, ...]] = get_args(ColumnType)

Value = str | int | float | bool | date | datetime
"""What a declared column holds; `datetime` is aware and in UTC."""

SEQUENCE: Final = "beatline_seq"
"""The order in which rows came, while they are on their way into a dataset."""
RESERVED: Final = frozenset({"doc", "fetched_at", "run_id", SEQUENCE})
"""Columns that every dataset has, and no field of a row may take."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BIGINT: Final = 2**63
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_SHOWN: Final = 40
_TRUE: Final = frozenset({"true", "t", "yes", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "0"})
_COPY_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
COPY_NULL: Final = "\\N"


def clean_text(text: str) -> str:
    """The text without NUL and with U+FFFD for lone surrogates: PostgreSQL stores neither."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def clean(value: object) -> object:
    """A JSON value with every text in it cleaned, keys included."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(str(k)): clean(v) for k, v in cast("dict[object, object]", value).items()}
    if isinstance(value, list):
        return [clean(item) for item in cast("list[object]", value)]
    return value


def shown(value: object) -> str:
    """A value as it stands in a reason: short."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def convert(value: object, kind: ColumnType) -> Value | None:
    """The value as the column's type; None for null, and for empty text in a column that is not text.

    Raises ValueError saying what the value is and what was expected.
    """
    if value is None or (value == "" and kind != "text"):
        return None
    try:
        return _CONVERSIONS[kind](value)
    except (ValueError, OverflowError):
        raise ValueError(f"{shown(value)} is no {_WORDS[kind]}") from None


def copy_text(value: Value | None) -> str:
    """The value as a field of PostgreSQL's COPY text format."""
    if value is None:
        return COPY_NULL
    if isinstance(value, str):
        return value.translate(_COPY_ESCAPES)
    if isinstance(value, bool):
        return "t" if value else "f"
    return value.isoformat() if isinstance(value, date) else repr(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    raise ValueError


def _integer(value: object) -> int:
    if isinstance(value, str):
        whole = _INTEGER.fullmatch(value.strip()) is not None
    else:
        whole = not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value % 1 == 0)
        )
    number = int(cast("int | float | str", value)) if whole else _BIGINT
    if not -_BIGINT <= number < _BIGINT:
        raise ValueError
    return number


def _number(value: object) -> float:
    number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number):
        raise ValueError
    return number


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = _string(value).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError


def _string(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _date(value: object) -> date:
    # Year first with slashes is as unambiguous as ISO, and common in files.
    return date.fromisoformat(_string(value).replace("/", "-"))


def _timestamp(value: object) -> datetime:
    moment = datetime.fromisoformat(_string(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


_CONVERSIONS: Final[Mapping[ColumnType, Callable[[object], Value]]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
}

_WORDS: Final[Mapping[ColumnType, str]] = {
    "text": "text or number",
    "integer": "integer of 64 bits",
    "number": "number",
    "boolean": "boolean (true, false)",
    "date": "date (2026-11-30)",
    "timestamp": "time stamp (2026-11-30T08:00:00Z)",
}
