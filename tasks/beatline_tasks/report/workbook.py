"""The XLSX file: a sheet a query with typed columns, a frozen head, a filter and native charts; memory stays flat.

Text is only ever text: nothing that stands in a cell becomes a formula or a link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from beatline_tasks.report.axes import text_width
from beatline_tasks.report.chart import COLOURS
from beatline_tasks.report.document import Facts, heading
from beatline_tasks.report.figures import Cell, Figures, wall_clock
from beatline_tasks.report.rows import Column
from beatline_tasks.report.spec import Chart, ColumnStyle

_TEXT_CHARS: Final = 32_767
_EXACT: Final = 10**15
"""Excel keeps 15 digits: a longer whole number (an id) is written as text, so that none is lost."""
_FIRST_YEAR: Final = 1900
_FIRST_MOMENT: Final = datetime(_FIRST_YEAR, 1, 1)  # noqa: DTZ001  # a wall clock's, as Excel's are
_LAST_MOMENT: Final = datetime(9999, 12, 31, 23, 59, 59)  # noqa: DTZ001
_WIDTH_ROWS: Final = 300
_WIDEST: Final = 60.0
_SHEET_CHARS: Final = 31
_NOT_IN_SHEET_NAMES: Final = re.compile(r"[\[\]:*?/\\']")
_CHART_POINTS: Final = 5_000
_DATES: Final = {"date": "yyyy-mm-dd", "timestamp": "yyyy-mm-dd hh:mm:ss"}


def _workbook(path: Path, options: Mapping[str, object]) -> Any:
    """XlsxWriter has no types: it is reached here, and nowhere else."""
    return getattr(import_module("xlsxwriter"), "Workbook")(str(path), options)  # noqa: B009  # of an untyped module


class XlsxFile:
    """A workbook that is written sheet by sheet, row by row."""

    def __init__(self, path: Path, facts: Facts, figures: Figures) -> None:
        self._book = _workbook(
            path,
            {
                "constant_memory": True,
                "strings_to_formulas": False,
                "strings_to_urls": False,
                "strings_to_numbers": False,
                "tmpdir": str(path.parent),
                "default_date_format": "yyyy-mm-dd",
            },
        )
        self._book.set_properties({"title": facts.title, "subject": facts.period, "comments": facts.made})
        self._figures = figures
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._book.close()

    def sheet(
        self, title: str, columns: Sequence[Column], styles: Sequence[ColumnStyle], charts: Sequence[Chart]
    ) -> Sheet:
        """The next sheet; the one before it is complete."""
        name = self._sheet_name(title)
        return Sheet(self._book, self._book.add_worksheet(name), name, columns, styles, charts, self._figures)

    def _sheet_name(self, title: str) -> str:
        plain = _NOT_IN_SHEET_NAMES.sub(" ", title).strip()[:_SHEET_CHARS] or "Data"
        name, number = plain, 2
        while name.lower() in self._names or name.lower() == "history":  # Excel keeps that name for itself
            name, number = f"{plain[: _SHEET_CHARS - 4]} {number}", number + 1
        self._names.add(name.lower())
        return name


class Sheet:
    """One query's sheet."""

    def __init__(
        self,
        book: Any,
        sheet: Any,
        name: str,
        columns: Sequence[Column],
        styles: Sequence[ColumnStyle],
        charts: Sequence[Chart],
        figures: Figures,
    ) -> None:
        self._book, self._sheet, self._name = book, sheet, name
        self._columns, self._styles, self._charts, self._figures = columns, styles, charts, figures
        self._count = 0
        head = book.add_format({"bold": True, "bg_color": "#EEF2F7", "bottom": 1, "text_wrap": True, "valign": "top"})
        right = book.add_format(
            {"bold": True, "bg_color": "#EEF2F7", "bottom": 1, "text_wrap": True, "valign": "top", "align": "right"}
        )
        self._formats = [self._format(column, style) for column, style in zip(columns, styles, strict=True)]
        self._widths: list[float] = []
        for number, (column, style) in enumerate(zip(columns, styles, strict=True)):
            said = heading(column, style)
            title = f"{said.title} ({said.unit})" if said.unit else said.title
            sheet.write_string(0, number, title, right if said.right else head)
            self._widths.append(_chars(title) + 3)  # the arrow of the filter
        sheet.freeze_panes(1, 0)
        sheet.repeat_rows(0)  # from here on: on paper, the whole width on each page
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)

    def add(self, row: Sequence[Cell]) -> None:
        """Write one row."""
        self._count += 1
        for number, value in enumerate(row):
            if value is not None:
                self._write(self._count, number, value)
        if self._count <= _WIDTH_ROWS:
            self._widen(row)

    def close(self) -> None:
        """Set widths, the filter and the charts: the number of rows is known now."""
        for number, width in enumerate(self._widths):
            self._sheet.set_column(number, number, min(max(width, 8), _WIDEST))
        if self._columns:
            self._sheet.autofilter(0, 0, self._count, len(self._columns) - 1)
        for number, chart in enumerate(self._charts):
            if self._count:
                self._insert(chart, number)

    def _write(self, row: int, column: int, value: Cell) -> None:
        """Write a value as what it is."""
        match value:
            case str():
                self._text(row, column, value)
            case bool():
                self._sheet.write_boolean(row, column, value)
            case int() | float() | Decimal() if _is_number(value):
                self._sheet.write_number(row, column, float(value), self._formats[column])
            case datetime():
                local = wall_clock(value, self._figures.zone)
                if local is None or not _FIRST_MOMENT <= local.replace(tzinfo=None) <= _LAST_MOMENT:
                    self._text(row, column, str(value))
                else:
                    self._sheet.write_datetime(row, column, local.replace(tzinfo=None), self._formats[column])
            case date() if value.year >= _FIRST_YEAR:
                self._sheet.write_datetime(row, column, value, self._formats[column])
            case _:
                self._text(row, column, str(value))

    def _text(self, row: int, column: int, text: str) -> None:
        if text:
            cut = text if len(text) <= _TEXT_CHARS else text[: _TEXT_CHARS - 1] + "\N{HORIZONTAL ELLIPSIS}"
            self._sheet.write_string(row, column, cut)

    def _widen(self, row: Sequence[Cell]) -> None:
        for number, value in enumerate(row):
            if value is not None:
                shown = f"{value:,.2f}" if isinstance(value, int | float | Decimal) else str(value)[:80]
                self._widths[number] = max(self._widths[number], _chars(shown) + 1)

    def _format(self, column: Column, style: ColumnStyle) -> Any:
        digits = "#,##0" if style.grouping else "0"
        patterns: Mapping[str, str] = {
            "integer": digits,
            "number": f"{digits}.{'0' * (2 if style.decimals is None else style.decimals)}".rstrip("."),
            **_DATES,
        }
        pattern = patterns.get(column.kind)
        return None if pattern is None else self._book.add_format({"num_format": pattern})

    def _insert(self, chart: Chart, number: int) -> None:
        places = {column.name: place for place, column in enumerate(self._columns)}
        last = min(self._count, _CHART_POINTS)
        kind = "column" if chart.type == "bar" else "line"
        drawn: Any = self._book.add_chart({"type": kind})
        for series, name in enumerate(chart.y):
            colour = COLOURS[series % len(COLOURS)]
            drawn.add_series(
                {
                    "name": [self._name, 0, places[name]],
                    "categories": [self._name, 1, places[chart.x], last, places[chart.x]],
                    "values": [self._name, 1, places[name], last, places[name]],
                    "line": {"color": colour, "width": 1.75},
                    **({"fill": {"color": colour}, "gap": 60} if kind == "column" else {}),
                }
            )
        drawn.set_title({"name": chart.title or "", "name_font": {"size": 12}, "none": not chart.title})
        # Not every program takes the format of an axis from its cells: without one of its own a date is a number there.
        pattern = _DATES.get(self._columns[places[chart.x]].kind)
        drawn.set_x_axis(
            {
                "date_axis": pattern is not None and kind == "line",
                "num_format": pattern or "General",
                "num_font": {"size": 9},
                "label_position": "low",
            }
        )
        grid = {"visible": True, "line": {"color": "#E3E8EE"}}
        drawn.set_y_axis({"name": chart.unit or "", "num_font": {"size": 9}, "major_gridlines": grid})
        drawn.set_legend({"position": "top"} if len(chart.y) > 1 else {"none": True})
        drawn.set_size({"width": 760, "height": 320})
        self._sheet.insert_chart(1 + number * 17, len(self._columns) + 1, drawn)


def _is_number(value: float | Decimal) -> bool:
    """Whether Excel holds the value as it is."""
    if isinstance(value, int):
        return abs(value) < _EXACT
    return bool(value - value == 0) if isinstance(value, float) else value.is_finite() and abs(value) < _EXACT


def _chars(text: str) -> float:
    """A text's width in Excel's unit, one digit."""
    return max((text_width(line, 1) for line in text.splitlines()), default=0.0) / 0.56
