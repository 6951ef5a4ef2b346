"""Checks of a load, asked in its transaction before it is committed: what blocks undoes it, what warns is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, assert_never

from beatline.ledger.database import quoted
from beatline.selects import literal
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.job import Check, NotNull, Range, RowCountChange, Sql, Unique
from beatline_tasks.etl.session import Session
from beatline_tasks.etl.target import names

_SHOWN_ROWS: Final = 5
_SHOWN_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Load:
    """What checks look at: the SELECT of the load's rows with its columns' types, the target with them in it, its key.

    `out` is how many rows the load has, `before` how many the last one had.
    """

    rows: str
    kinds: dict[str, str]
    target: str
    key: tuple[str, ...]
    out: int
    before: int | None

    @property
    def prefix(self) -> str:
        """What a statement begins with that reads `output` and `target`."""
        # Materialized: or the planner would try a check's condition on rows before it leaves out the rejected ones.
        output = f"SELECT {names(self.kinds)} FROM ({self.rows}) AS chosen"
        return f"WITH output AS MATERIALIZED ({output}), target AS (SELECT * FROM {self.target})"


def ask(session: Session, check: Check, load: Load) -> list[str]:
    """What the check finds, in words; nothing if all is well. Raises JobError if it cannot be asked."""
    match check:
        case NotNull():
            return [found for column in check.columns for found in _not_null(session, column, load)]
        case Unique():
            return _unique(session, check, load)
        case Range():
            return _range(session, check, load)
        case RowCountChange():
            return _row_count(check, load)
        case Sql():
            told = _offenders(session, load, check.sql, f"The check {check.name!r}", whole=True)
            return [f"{check.name}: {told}"] if told else []
        case _:
            assert_never(check)


def unknown_columns(check: Check, kinds: dict[str, str]) -> list[str]:
    """The columns that a check names and the load does not have."""
    match check:
        case NotNull() | Unique():
            named = list(check.columns)
        case Range():
            named = [check.column]
        case _:
            named = []
    return [name for name in named if name not in kinds]


def statement(check: Sql, load: Load) -> str:
    """The statement of a check in SQL."""
    return f"{load.prefix} SELECT * FROM (\n{check.sql}\n) AS found"


def _not_null(session: Session, column: str, load: Load) -> list[str]:
    wrong = f"SELECT * FROM output WHERE {_known(column, load)} IS NULL"
    told = _offenders(session, load, wrong, f"not_null on {column}")
    return [f"not_null: {column} is empty in {told}"] if told else []


def _unique(session: Session, check: Unique, load: Load) -> list[str]:
    columns = ", ".join(_known(name, load) for name in check.columns)
    filled = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in check.columns)
    # Only what this load brought is compared: a target of any size stays cheap.
    wrong = (
        f"SELECT {columns}, count(*) AS rows FROM target WHERE ({columns}) IN (SELECT {columns} FROM output) "
        f"AND {filled} GROUP BY {columns} HAVING count(*) > 1"
    )
    listed = ", ".join(check.columns)
    told = _offenders(session, load, wrong, f"unique on {listed}", whole=True, what="value")
    return [f"unique: {listed} is there more than once, {told}"] if told else []


def _range(session: Session, check: Range, load: Load) -> list[str]:
    column, kind = _known(check.column, load), load.kinds[check.column]
    bounds: list[str] = []
    for name, sign, bound in (("min", "<", check.min), ("max", ">", check.max)):
        if bound is not None:
            bounds.append(f"{column} {sign} CAST({session.let(name, str(bound))} AS {_bound_kind(kind, bound)})")
    wrong = f"SELECT * FROM output WHERE {' OR '.join(bounds)}"
    told = _offenders(session, load, wrong, f"range of {check.column}")
    low, high = ("" if bound is None else str(bound) for bound in (check.min, check.max))
    return [f"range: {check.column} is outside {low}..{high} in {told}"] if told else []


def _bound_kind(kind: str, bound: float | str) -> str:
    """A column of integers may have a bound with a fraction."""
    return kind if isinstance(bound, str) else "numeric" if kind != "double precision" and kind != "real" else kind


def _row_count(check: RowCountChange, load: Load) -> list[str]:
    if not load.before:
        return []
    change = (load.out - load.before) * 100 / load.before
    said = f"row_count_change: {load.out:,} rows after {load.before:,} are {change:+.1f} %"
    if check.max_drop_pct is not None and change < -check.max_drop_pct:
        return [f"{said}, and a drop of {check.max_drop_pct:g} % is accepted."]
    if check.max_rise_pct is not None and change > check.max_rise_pct:
        return [f"{said}, and a rise of {check.max_rise_pct:g} % is accepted."]
    return []


def _offenders(
    session: Session, load: Load, wrong: str, what_for: str, *, whole: bool = False, what: str = "row"
) -> str | None:
    """How many rows a SELECT finds, with the first few: their keys, or the whole of them where there is no key."""
    keyed = load.key and not whole
    pairs = ", ".join(f"{literal(name)}, found.{quoted(name)}" for name in load.key)
    shown = f"jsonb_build_object({pairs})" if keyed else "to_jsonb(found)"
    with session.read_only():
        rows: list[tuple[Any, ...]] = session.rows(
            f"{load.prefix} SELECT count(*) OVER (), left(CAST({shown} AS text), {_SHOWN_CHARS}) "
            f"FROM (\n{wrong}\n) AS found LIMIT {_SHOWN_ROWS}",
            what=what_for,
        )
    if not rows:
        return None
    count = int(rows[0][0])
    first = "; ".join(str(row[1]) for row in rows)
    return f"{count:,} {what}{'' if count == 1 else 's'}: {first}{' …' if count > len(rows) else ''}."


def _known(column: str, load: Load) -> str:
    if column not in load.kinds:
        raise JobError(f"A check names the column {column!r}, which the load does not have: {', '.join(load.kinds)}.")
    return quoted(column)
