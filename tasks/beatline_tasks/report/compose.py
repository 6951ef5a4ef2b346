"""From the rows of the queries to the files of a report, in one pass over each query's rows; memory stays flat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from beatline_tasks.report.chart import draw
from beatline_tasks.report.csvfile import CsvFile
from beatline_tasks.report.document import Facts, Section, ShownRows, heading
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.figures import Cell, Figures
from beatline_tasks.report.page import page
from beatline_tasks.report.points import Points
from beatline_tasks.report.rows import Column
from beatline_tasks.report.spec import Chart, ColumnStyle, Format, Report
from beatline_tasks.report.workbook import Sheet, XlsxFile

Role = Literal["html", "xlsx", "csv", "pdf", "full"]
"""A file's format; `full` is a CSV that was not asked for, and is there because not every row is shown."""

CONTENT_TYPES: Final[Mapping[Role, str]] = {
    "html": "text/html; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "csv": "text/csv; charset=utf-8",
    "full": "text/csv; charset=utf-8",
    "pdf": "application/pdf",
}

Rows = AbstractContextManager[tuple[list[Column], Iterator[list[Cell]]]]


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of a query, and how many they are; `cut` if the query had more than are fetched."""

    rows: Rows
    total: int
    cut: bool


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file of the report in the folder it was made in."""

    role: Role
    path: Path

    @property
    def name(self) -> str:
        """As people see it."""
        return self.path.name


class _Sink(Protocol):
    def add(self, row: list[Cell]) -> None: ...


def compose(
    report: Report, facts: Facts, figures: Figures, sources: Mapping[str, Source], folder: Path
) -> tuple[list[MadeFile], list[Section]]:
    """Make every file of the report in a folder. Raises ReportError, naming the chart or format that is wrong."""
    made: list[MadeFile] = []
    sections: list[Section] = []
    with ExitStack() as stack:
        book = None
        if "xlsx" in report.formats:
            path = folder / f"{facts.stem}.xlsx"
            book = stack.enter_context(XlsxFile(path, facts, figures))
            made.append(MadeFile("xlsx", path))
        for name in report.queries:
            maker = _Query(report, facts, figures, name, folder, book)
            sections.append(maker.make(sources[name], made))
    if "html" in report.formats:
        path = folder / f"{facts.stem}.html"
        path.write_text(page(facts, sections), encoding="utf-8")
        made.append(MadeFile("html", path))
    if "pdf" in report.formats:
        from beatline_tasks.report.pdf import write_pdf

        path = folder / f"{facts.stem}.pdf"
        write_pdf(path, facts, sections)
        made.append(MadeFile("pdf", path))
    order: tuple[Format | Role, ...] = (*report.formats, "full")
    return sorted(made, key=lambda file: order.index(file.role)), sections


class _Query:
    """One query's share of the report."""

    def __init__(
        self, report: Report, facts: Facts, figures: Figures, name: str, folder: Path, book: XlsxFile | None
    ) -> None:
        self._report, self._facts, self._figures, self._name = report, facts, figures, name
        self._query, self._folder, self._book = report.queries[name], folder, book
        self._charts = {key: chart for key, chart in report.charts.items() if report.query_of(chart) == name}

    def make(self, source: Source, made: list[MadeFile]) -> Section:
        """Pass every row to all that want it, and give what is shown."""
        with source.rows as (columns, rows), ExitStack() as stack:
            styles = [self._query.columns.get(column.name, ColumnStyle()) for column in columns]
            self._check_styles(columns)
            shown = ShownRows(columns, styles, self._report.row_limit, self._figures)
            points = [self._points(key, chart, columns) for key, chart in self._charts.items()]
            csv_file = self._csv(source)
            sheet = self._sheet(columns, styles)
            sinks: list[_Sink] = [shown, *points, *([sheet] if sheet else [])]
            if csv_file is not None:
                sinks.append(stack.enter_context(CsvFile(csv_file.path, columns, self._report.zone)))
                made.append(csv_file)
            _pour(rows, sinks)
            if sheet is not None:
                sheet.close()
        return Section(
            name=self._name,
            title=self._query.title or (self._name if len(self._report.queries) > 1 else ""),
            headings=[heading(column, style) for column, style in zip(columns, styles, strict=True)],
            total=source.total,
            rows=shown.text(),
            charts=[draw(chart.chart(), self._figures) for chart in points],
            note=self._note(source, csv_file),
        )

    def _csv(self, source: Source) -> MadeFile | None:
        whole = "csv" in self._report.formats
        if not whole and ("xlsx" in self._report.formats or source.total <= self._report.row_limit):
            return None
        name = self._facts.stem if len(self._report.queries) == 1 else f"{self._facts.stem}-{self._name}"
        return MadeFile("csv" if whole else "full", self._folder / f"{name}.csv")

    def _sheet(self, columns: Sequence[Column], styles: Sequence[ColumnStyle]) -> Sheet | None:
        if self._book is None:
            return None
        title = self._query.title or (self._name if len(self._report.queries) > 1 else self._report.title)
        return self._book.sheet(title, columns, styles, list(self._charts.values()))

    def _points(self, key: str, chart: Chart, columns: Sequence[Column]) -> Points:
        styles = {
            column.name: ColumnStyle(title=said.title, unit=said.unit or None)
            for column in columns
            if (said := heading(column, self._query.columns.get(column.name, ColumnStyle())))
        }
        return Points(key, chart, columns, styles, self._figures)

    def _check_styles(self, columns: Sequence[Column]) -> None:
        names = [column.name for column in columns]
        for name in self._query.columns:
            if name not in names:
                raise ReportError(
                    f"queries.{self._name}.columns: there is no column {name!r}; the query gives {', '.join(names)}."
                )

    def _note(self, source: Source, csv_file: MadeFile | None) -> str:
        number, limit = self._figures.number, self._report.row_limit
        said: list[str] = []
        if source.total > limit:
            whole = csv_file.name if csv_file else f"{self._facts.stem}.xlsx"
            said.append(f"The first {number(limit)} of {number(source.total)} rows. The full file is {whole}.")
        if source.cut:
            said.append(
                f"The query has more rows than the {number(source.total)} that are fetched at most: the files end there."
            )
        return " ".join(said)


def _pour(rows: Iterable[list[Cell]], sinks: Sequence[_Sink]) -> None:
    for row in rows:
        for sink in sinks:
            sink.add(row)
