"""A report ready to be set: its facts, and of each query the headings, the rows that are shown, and the charts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from beatline_tasks.report.figures import Cell, Figures
from beatline_tasks.report.period import Period
from beatline_tasks.report.rows import Column
from beatline_tasks.report.spec import ColumnStyle, Report

_MOST_DECIMALS: Final = 3


@dataclass(frozen=True, slots=True)
class Facts:
    """Which issue of which report this is, in words."""

    report: str
    title: str
    period: str
    zone: str
    made: str
    run_id: str
    language: str
    stem: str


@dataclass(frozen=True, slots=True)
class Heading:
    """A column's head; `right` sets the column's values at the right."""

    title: str
    unit: str
    right: bool


@dataclass(slots=True)
class Section:
    """What is shown of one query. `note` says what is not shown, and where it is."""

    name: str
    title: str
    headings: list[Heading]
    total: int
    rows: list[list[str]] = field(default_factory=list[list[str]])
    charts: list[str] = field(default_factory=list[str])
    note: str = ""


def facts_of(name: str, report: Report, period: Period, made: datetime, run_id: str, figures: Figures) -> Facts:
    """The facts of one issue."""
    start = period.start.astimezone(report.zone)
    return Facts(
        report=name,
        title=report.title,
        period=figures.period(period, report.period),
        zone=figures.zone_name(period.start),
        made=figures.moment(made),
        run_id=run_id,
        language=figures.locale.language,
        stem=f"{name}-{start:%Y-%m-%d-%H%M}" if report.period == "hour" else f"{name}-{start:%Y-%m-%d}",
    )


def heading(column: Column, style: ColumnStyle) -> Heading:
    """A column's head: as the report says, else from its name."""
    said = column.name.replace("_", " ").strip()
    return Heading(style.title or said[:1].upper() + said[1:], style.unit or "", column.is_number)


class ShownRows:
    """The first rows of a query, as text: all numbers of a column with the same decimals."""

    def __init__(self, columns: Sequence[Column], styles: Sequence[ColumnStyle], limit: int, figures: Figures) -> None:
        self._columns, self._styles, self._limit, self._figures = columns, styles, limit, figures
        self._rows: list[list[Cell]] = []

    def add(self, row: list[Cell]) -> None:
        """Keep a row, if it is among the first."""
        if len(self._rows) < self._limit:
            self._rows.append(row)

    def text(self) -> list[list[str]]:
        """The rows as people read them."""
        decimals = [self._decimals(number) for number in range(len(self._columns))]
        show = self._figures.show
        return [
            [
                show(value, places, grouping=style.grouping)
                for value, places, style in zip(row, decimals, self._styles, strict=True)
            ]
            for row in self._rows
        ]

    def _decimals(self, number: int) -> int | None:
        style, column = self._styles[number], self._columns[number]
        if style.decimals is not None or not column.is_number:
            return style.decimals
        if column.kind == "integer":
            return 0
        return max((_decimals_of(row[number]) for row in self._rows), default=0)


def _decimals_of(value: Cell) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return 0
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    exponent = exact.normalize().as_tuple().exponent
    return min(max(0, -exponent), _MOST_DECIMALS) if isinstance(exponent, int) else 0
