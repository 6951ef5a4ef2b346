"""Types of fields: which fit into which without loss, which hold both, and what to ask of a value otherwise. Pure.

A type is written as PostgreSQL's `format_type` does: `bigint`, `numeric(10,2)`, `timestamp with time zone`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from beatline.selects import literal

DeclaredType = Literal["text", "integer", "number", "decimal", "boolean", "date", "timestamp", "json"]

TIMESTAMP: Final = "timestamp with time zone"
NAIVE: Final = "timestamp without time zone"

DECLARED: Final[Mapping[DeclaredType, str]] = {
    "text": "text",
    "integer": "bigint",
    "number": "double precision",
    "decimal": "numeric",
    "boolean": "boolean",
    "date": "date",
    "timestamp": TIMESTAMP,
    "json": "jsonb",
}

INTEGERS: Final[Mapping[str, int]] = {"smallint": 15, "integer": 31, "bigint": 63}
"""Integer types and their bits, without the sign."""
FLOATS: Final = ("real", "double precision")
TEXTS: Final = frozenset({"text", "character varying", "character", "name", "unknown", '"char"'})
_EXACT_DOUBLE: Final = 2**53
_TYPMOD: Final = re.compile(r"(.+?)\((\d+)(?:,(-?\d+))?\)(.*)")


def base(kind: str) -> str:
    """The type without its length or precision."""
    found = _TYPMOD.fullmatch(kind)
    return (found[1] + found[4]).strip() if found else kind


def limits(kind: str) -> tuple[int, int] | None:
    """Length, or precision and scale, of a type that has them."""
    found = _TYPMOD.fullmatch(kind)
    return (int(found[2]), int(found[3] or 0)) if found else None


def is_text(kind: str) -> bool:
    """Whether values of this type are text."""
    return base(kind) in TEXTS


def fits(came: str, stands: str) -> bool:
    """Whether every value of one type can stand in a column of the other, as what it is."""
    if came == stands:
        return True
    small, large = base(came), base(stands)
    if limits(stands) is not None:
        return small == large and _within(limits(came), limits(stands), number=large == "numeric")
    if large == "numeric":
        return small in INTEGERS or small == "numeric"
    if large == "double precision":  # the digits past the 15th are what a double leaves out by its nature
        return small in ("smallint", "integer", "real", "numeric")
    if large in INTEGERS:
        return INTEGERS.get(small, 99) <= INTEGERS[large]
    if large == "text":
        return small in TEXTS
    if large in (TIMESTAMP, NAIVE):
        return small in ("date", NAIVE, large)  # every session is in UTC
    return large == "jsonb" and small == "json"


def _within(came: tuple[int, int] | None, stands: tuple[int, int] | None, *, number: bool) -> bool:
    if came is None or stands is None:
        return False
    if number:
        return came[1] <= stands[1] and came[0] - came[1] <= stands[0] - stands[1]
    return came[0] <= stands[0]


def wider(came: str, stands: str) -> str | None:
    """The type a column can be widened to, that holds what is in it and what came; None if there is none."""
    options = (base(came), "bigint", "numeric", "double precision", "text", TIMESTAMP)
    return next((kind for kind in options if fits(came, kind) and _keeps(stands, kind)), None)


def _keeps(stands: str, kind: str) -> bool:
    """Whether a column may become another type: here a numeric is no double, and text swallows only text."""
    if base(stands) == "numeric" and kind == "double precision":
        return False
    return fits(stands, kind)


def taken(column: str, came: str, stands: str) -> str:
    """The SQL expression that makes the column's value of what came; where it fits, or `misfit` found it fit."""
    if came == stands:
        return column
    if is_text(came) and not is_text(stands):
        return f"CAST(NULLIF(btrim({column}), '') AS {stands})"
    if fits(came, stands) or (_numeric(came) and _numeric(stands)) or {base(came), base(stands)} <= _MOMENTS:
        return f"CAST({column} AS {stands})"
    return f"CAST(CAST({column} AS text) AS {stands})"


def misfit(column: str, came: str, stands: str, valid: str) -> str | None:
    """The SQL condition of a value that the column cannot hold unchanged; None if there is no such value.

    `valid` is the SQL function of a text and the name of a type that says whether the one reads as the other.
    """
    if fits(came, stands):
        return None
    small, large = base(came), base(stands)
    if _numeric(came) and _numeric(stands):
        return _misfit_number(column, small, stands)
    if small in (TIMESTAMP, NAIVE) and large == "date":
        return f"{column} <> date_trunc('day', {column})"
    if {small, large} == {TIMESTAMP, NAIVE} and limits(stands) is None:
        return None
    if {small, large} <= _MOMENTS:  # to fewer digits of a second
        return f"CAST({column} AS {stands}) <> {column}"
    bound = limits(stands)
    if large in TEXTS:
        return None if bound is None else f"length(CAST({column} AS text)) > {bound[0]}"
    text = f"NULLIF(btrim({column}), '')" if is_text(came) else f"CAST({column} AS text)"
    told = f"NOT {valid}({text}, {literal(stands)})"
    if large == "numeric" and bound is not None:
        told = (
            f"CASE WHEN {told} THEN true ELSE CAST({text} AS numeric) <> round(CAST({text} AS numeric), {bound[1]}) END"
        )
    return told


_MOMENTS: Final = frozenset({"date", TIMESTAMP, NAIVE})


def _numeric(kind: str) -> bool:
    return base(kind) in INTEGERS or base(kind) in FLOATS or base(kind) == "numeric"


def _misfit_number(column: str, came: str, stands: str) -> str:
    large, bound = base(stands), limits(stands)
    if large in INTEGERS:
        top = 2 ** INTEGERS[large]
        if came in FLOATS:
            return f"({column} <> trunc({column}) OR NOT ({column} >= -{top}.0 AND {column} < {top}.0))"
        within = f"({column} >= -{top} AND {column} < {top})"
        return f"NOT {within}" if came in INTEGERS else f"({column} <> trunc({column}) OR NOT {within})"
    if bound is not None:
        exact = f"CAST({column} AS numeric)"
        return f"({exact} <> round({exact}, {bound[1]}) OR abs({exact}) >= 1e{bound[0] - bound[1]})"
    if large == "numeric":  # of a float: sixteen digits and more would be rounded on the way
        return f"CAST(CAST({column} AS numeric) AS {came}) <> {column}"
    if large == "real":
        return f"CAST(CAST({column} AS real) AS {came}) <> {column}"
    return f"abs({column}) > {_EXACT_DOUBLE}"
