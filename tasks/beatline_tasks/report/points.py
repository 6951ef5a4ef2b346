"""What a chart needs of a query's rows, kept small however many there are. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from datetime import MAXYEAR, MINYEAR, date, datetime, time
from decimal import Decimal
from typing import Final

from beatline_tasks.report.chart import ChartData, Series
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.figures import Cell, Figures
from beatline_tasks.report.rows import Column
from beatline_tasks.report.spec import Chart, ColumnStyle

MOST_CATEGORIES: Final = 200
_BUCKETS: Final = 700
"""About one a pixel: of more points, each bucket's lowest and highest are drawn, so that no peak is lost."""


class Points:
    """Collects one chart's values while the rows of its query pass by."""

    def __init__(
        self, name: str, chart: Chart, columns: Sequence[Column], styles: dict[str, ColumnStyle], figures: Figures
    ) -> None:
        self._chart, self._figures, self._styles = chart, figures, styles
        places = {column.name: number for number, column in enumerate(columns)}
        for wanted in (chart.x, *chart.y):
            if wanted not in places:
                raise ReportError(
                    f"charts.{name}: there is no column {wanted!r}; the query gives {', '.join(places) or 'none'}."
                )
        for wanted in chart.y:
            if not columns[places[wanted]].is_number:
                raise ReportError(
                    f"charts.{name}.y: {wanted!r} is {columns[places[wanted]].kind}, and only numbers can be drawn."
                )
        self._x_place, self._y_places = places[chart.x], [places[name] for name in chart.y]
        kind = columns[self._x_place].kind
        self._by_number = chart.type == "line" and kind in ("integer", "number")
        self._by_time = chart.type == "line" and kind in ("date", "timestamp")
        self._x: array[float] = array("d")
        self._labels: list[str] = []
        self._y = [array("d") for _ in chart.y]
        self._left_out = 0

    def add(self, row: Sequence[Cell]) -> None:
        """Take a row's point; one without an x has no place."""
        x = row[self._x_place]
        if self._by_time or self._by_number:
            place = self._seconds(x) if self._by_time else _float(x)
            if not math.isfinite(place):
                self._left_out += 1
                return
            self._x.append(place)
        elif len(self._labels) < MOST_CATEGORIES:
            self._labels.append(self._figures.show(x, 0 if isinstance(x, int) else None) or "\N{EM DASH}")
        else:
            self._left_out += 1
            return
        for values, number in zip(self._y, self._y_places, strict=True):
            values.append(_float(row[number]))

    def chart(self) -> ChartData:
        """What is drawn."""
        spec = self._chart
        names = [self._title(name) for name in spec.y]
        x: Sequence[float] | Sequence[str] = self._labels
        values: list[Sequence[float]] = list(self._y)
        if self._by_time or self._by_number:
            x, values = _sorted(self._x, self._y)
            if len(x) > 2 * _BUCKETS:
                x, values = _thinned(x, values)
        note = ""
        if self._left_out:
            total = self._figures.number(self._left_out + len(self._x) + len(self._labels))
            shown = self._figures.number(len(self._x) + len(self._labels))
            note = f"{shown} of {total} rows are drawn."
        return ChartData(
            type=spec.type,
            x_kind="time" if self._by_time else "number" if self._by_number else "category",
            x=x,
            series=[Series(name, line) for name, line in zip(names, values, strict=True)],
            title=spec.title or ", ".join(names),
            unit=spec.unit or self._unit(),
            x_title=self._title(spec.x) if self._by_number else "",
            note=note,
        )

    def _seconds(self, value: Cell) -> float:
        # The ends of the calendar stand for infinity, and no axis gets there.
        if isinstance(value, date) and value.year in (MINYEAR, MAXYEAR):
            return math.nan
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=self._figures.zone)).timestamp()
        if isinstance(value, date):
            return datetime.combine(value, time(), tzinfo=self._figures.zone).timestamp()
        return math.nan

    def _title(self, name: str) -> str:
        style = self._styles.get(name)
        return (style.title if style else None) or name

    def _unit(self) -> str:
        units = {style.unit for name in self._chart.y if (style := self._styles.get(name)) and style.unit}
        return units.pop() if len(units) == 1 else ""


def _float(value: Cell) -> float:
    if isinstance(value, int | float | Decimal):
        try:
            number = float(value)
        except OverflowError:
            return math.nan
        return number if abs(number) < 1e300 else math.nan
    return math.nan


def _sorted(x: array[float], lines: Sequence[array[float]]) -> tuple[Sequence[float], list[Sequence[float]]]:
    order = sorted(range(len(x)), key=x.__getitem__)
    return array("d", (x[i] for i in order)), [array("d", (line[i] for i in order)) for line in lines]


def _thinned(x: Sequence[float], lines: Sequence[Sequence[float]]) -> tuple[Sequence[float], list[Sequence[float]]]:
    """The points that can be told apart: in each bucket where a line is lowest and where it is highest."""
    low, span = x[0], (x[-1] - x[0]) or 1.0
    keep: set[int] = set()
    for line in lines:
        extremes: dict[int, tuple[int, int]] = {}
        for number, value in enumerate(line):
            if not math.isfinite(value):
                continue
            bucket = int((x[number] - low) / span * _BUCKETS)
            least, most = extremes.get(bucket, (number, number))
            extremes[bucket] = (number if value < line[least] else least, number if value > line[most] else most)
        keep.update(number for pair in extremes.values() for number in pair)
    order = sorted(keep)
    return [x[i] for i in order], [[line[i] for i in order] for line in lines]
