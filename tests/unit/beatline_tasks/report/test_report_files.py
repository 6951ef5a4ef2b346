"""The files of a report, read back: types, hostile cells, what is said of rows that are not shown, flat memory."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl  # type: ignore[import-untyped]  # its stubs are no dependency of ours
import pytest

from beatline_tasks.report.compose import MadeFile, Source, compose
from beatline_tasks.report.document import Section, facts_of
from beatline_tasks.report.errors import MissingGlyphsError, PdfNotInstalledError, ReportError
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.page import mail_page, mail_text
from beatline_tasks.report.pdf import check_installed
from beatline_tasks.report.period import period_before
from beatline_tasks.report.rows import Column, read_rows, write_rows
from beatline_tasks.report.spec import Report

MADE = datetime(2026, 12, 1, 5, tzinfo=UTC)
EVIL = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "<script>alert(1)</script>",
        "http://example.com", "{=1}", "{{ 7*7 }}", "#eval(\"1\")", "x" * 40_000, "nul\x0b\x1b[31m"]  # fmt: skip
COLUMNS = [
    Column("name", "text"), Column("day", "date"), Column("at", "timestamp"), Column("n", "integer"),
    Column("x", "number"), Column("yes", "boolean"),
]  # fmt: skip


def row(name: str | None, n: int = 1) -> list[object]:
    return [name, date(2026, 11, 30), datetime(2026, 11, 30, 23, 30, tzinfo=UTC), n, Decimal("1234.50"), True]


def made(
    folder: Path, rows: Sequence[Sequence[object]], *, cut: bool = False, **spec: Any
) -> tuple[dict[str, MadeFile], list[Section]]:
    """The files by their role, and the sections."""
    asked = {"title": "T", "queries": {"q": {"sql": "select 1"}}, "formats": ["html", "xlsx", "csv"],
             "time_zone": "Europe/Berlin", **spec}  # fmt: skip
    report = Report.model_validate(asked)
    file = io.BytesIO()
    total = write_rows(file, COLUMNS, rows)
    file.seek(0)
    figures = Figures(report.locale, report.zone)
    facts = facts_of("r", report, period_before(MADE, report.period, report.zone), MADE, "run", figures)
    files, sections = compose(report, facts, figures, {"q": Source(read_rows(file), total, cut)}, folder)
    return {file.role: file for file in files}, sections


def test_values_come_back_from_the_workbook_as_what_they_are(tmp_path: Path) -> None:
    files, _ = made(tmp_path, [row("a"), row("b", 2**60), [None] * 6])
    sheet = openpyxl.load_workbook(files["xlsx"].path)["T"]
    assert [cell.value for cell in sheet[1]] == ["Name", "Day", "At", "N", "X", "Yes"]
    assert [cell.value for cell in sheet[2]] == [
        "a", datetime(2026, 11, 30), datetime(2026, 12, 1, 0, 30), 1, 1234.5, True,  # noqa: DTZ001  # a wall clock's
    ]  # fmt: skip
    assert sheet["D3"].value == str(2**60)  # more digits than Excel keeps
    assert [cell.value for cell in sheet[4]] == [None] * 6
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", "A1:F4")
    assert [sheet[f"{column}2"].number_format for column in "BCDE"] == [
        "yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss", "#,##0", "#,##0.00",
    ]  # fmt: skip
    assert sheet.column_dimensions["C"].width > 18


def test_nothing_in_a_cell_is_run(tmp_path: Path) -> None:
    files, _ = made(tmp_path, [row(text) for text in EVIL])
    sheet = openpyxl.load_workbook(files["xlsx"].path)["T"]
    assert {cell.data_type for cell in sheet["A"]} == {"s"}
    assert sheet["A2"].value == "=1+1"
    assert len(sheet["A15"].value) == 32_767
    assert not any(cell.hyperlink for cell in sheet["A"])

    with files["csv"].path.open(encoding="utf-8-sig", newline="") as file:
        names = [line[0] for line in csv.reader(file)][1:]
    assert all(name.startswith("'") for name in names[:8])
    assert names[8:10] == EVIL[8:10]
    html = files["html"].path.read_text("utf-8")
    assert "<script>" not in html
    assert "{{ 7*7 }}" in html


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("x;=1+1", "x;'=1+1"),
        ('x; "=1+1', "x;' \"=1+1"),
        ("x\n=1+1", "x\n'=1+1"),
        ("x\r\n@SUM(A1)\r\ny", "x\r\n'@SUM(A1)\r\ny"),
        ("=1;=2", "'=1;'=2"),
        ("a; b\nc = d; -e", "a; b\nc = d;' -e"),
        ("1=1, 2-2; 3@3", "1=1, 2-2; 3@3"),
    ],
)
def test_nothing_is_run_where_a_semicolon_begins_a_cell(tmp_path: Path, text: str, written: str) -> None:
    files, _ = made(tmp_path, [row(text)], formats=["csv"])
    with files["csv"].path.open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file))[1][0] == written


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_the_ends_of_the_calendar_are_shown_and_not_drawn(tmp_path: Path, zone: str) -> None:
    # The driver's infinity, and its negative.
    ends = [
        ["end", date.max, datetime.max.replace(tzinfo=UTC), 1, Decimal(1), True],
        ["begin", date.min, datetime.min.replace(tzinfo=UTC), 1, Decimal(2), True],
    ]
    charts = {name: {"x": name, "y": ["x"]} for name in ("at", "day")}
    files, [section] = made(tmp_path, [*ends, row("now")], time_zone=zone, charts=charts)
    assert [line[0] for line in section.rows] == ["end", "begin", "now"]
    assert all("1 of 3 rows are drawn" in svg for svg in section.charts)
    with files["csv"].path.open(encoding="utf-8-sig", newline="") as file:
        _, last, first, _ = csv.reader(file)
    assert last[2][:4] == "9999"
    assert first[2].startswith("0001-01-01")
    sheet = openpyxl.load_workbook(files["xlsx"].path)["T"]
    assert str(sheet["C2"].value).startswith("9999-12-31")
    assert str(sheet["C3"].value).startswith("0001-01-01")


def test_a_chart_stands_in_the_page_and_in_the_workbook(tmp_path: Path) -> None:
    files, _ = made(tmp_path, [row("a"), row("b")], charts={"c": {"type": "bar", "x": "name", "y": ["x", "n"]}})
    assert files["html"].path.read_text("utf-8").count("<svg") == 1
    sheet: Any = openpyxl.load_workbook(files["xlsx"].path)["T"]
    [chart] = sheet._charts
    ranges = [str(series.val.numRef.f).replace("'", "") for series in chart.series]
    assert ranges == ["T!$E$2:$E$3", "T!$D$2:$D$3"]
    assert chart.x_axis.numFmt.formatCode == "General"


@pytest.mark.parametrize("kind", ["bar", "line"])
@pytest.mark.parametrize(("x", "shown"), [("day", "yyyy-mm-dd"), ("at", "yyyy-mm-dd hh:mm:ss")])
def test_an_axis_of_dates_says_itself_that_it_shows_dates(tmp_path: Path, kind: str, x: str, shown: str) -> None:
    files, _ = made(tmp_path, [row("a"), row("b")], charts={"c": {"type": kind, "x": x, "y": ["n"]}})
    sheet: Any = openpyxl.load_workbook(files["xlsx"].path)["T"]
    [chart] = sheet._charts
    assert (chart.x_axis.numFmt.formatCode, chart.x_axis.numFmt.sourceLinked) == (shown, False)


def test_on_paper_every_column_is_on_the_page_with_its_heading(tmp_path: Path) -> None:
    files, _ = made(tmp_path, [row("a")])
    sheet: Any = openpyxl.load_workbook(files["xlsx"].path)["T"]
    assert (sheet.print_title_rows, sheet.page_setup.orientation) == ("$1:$1", "landscape")
    assert (sheet.sheet_properties.pageSetUpPr.fitToPage, sheet.page_setup.fitToHeight) == (True, 0)


def test_what_is_not_shown_is_said_with_the_file_that_has_it(tmp_path: Path) -> None:
    files, [section] = made(tmp_path, [row(str(n)) for n in range(30)], row_limit=10, formats=["html"])
    assert len(section.rows) == 10
    assert section.note == "The first 10 of 30 rows. The full file is r-2026-11-30.csv."
    assert section.note in files["html"].path.read_text("utf-8")
    assert len(files["full"].path.read_text("utf-8").splitlines()) == 31
    _, [cut] = made(tmp_path, [row("a")], cut=True)
    assert "more rows than the 1 that are fetched at most" in cut.note
    plain, _ = made(tmp_path, [row("a")], formats=["html"])
    assert list(plain) == ["html"]


def test_the_mail_shows_the_beginning_and_escapes_it(tmp_path: Path) -> None:
    _, sections = made(tmp_path, [row("<b>evil</b>"), *(row(str(n)) for n in range(40))])
    report = Report.model_validate({"title": "<T>", "queries": {"q": {"sql": "select 1"}}})
    figures = Figures("de", report.zone)
    facts = facts_of("r", report, period_before(MADE, "day", report.zone), MADE, "run", figures)
    html = mail_page(facts, sections, ["<remark>"], [])
    assert "<b>evil" not in html
    assert "&lt;T&gt;" in html
    assert "&lt;remark&gt;" in html
    assert html.count("<tr>") > 20
    assert "The first 20 of 41 rows." in html
    assert "… and 21 more rows." in mail_text(facts, sections, [])


def test_numbers_and_dates_are_in_the_readers_language(tmp_path: Path) -> None:
    _, [german] = made(tmp_path, [row("a", 1234567)], locale="de")
    assert german.rows == [["a", "30.11.2026", "01.12.2026 00:30", "1.234.567", "1.234,5", "\N{CHECK MARK}"]]
    _, [chinese] = made(tmp_path, [row("a")], locale="zh_CN", queries={
        "q": {"sql": "select 1", "columns": {"x": {"decimals": 2}, "n": {"grouping": False}}}})  # fmt: skip
    assert chinese.rows[0][1:5] == ["2026年11月30日", "2026年12月1日 00:30", "1", "1,234.50"]


def test_a_column_that_is_styled_and_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"queries\.q\.columns: there is no column 'z'; the query gives name, day"):
        made(tmp_path, [], queries={"q": {"sql": "select 1", "columns": {"z": {"unit": "m"}}}})


def test_the_pdf_is_a_pdf_and_hostile_text_stays_text(tmp_path: Path) -> None:
    pytest.importorskip("typst")
    files, _ = made(tmp_path, [row(text[:50].strip("\x0b\x1b[31m")) for text in EVIL if "\uff1d" not in text],
                    formats=["pdf"], charts={"c": {"x": "day", "y": ["x"]}})  # fmt: skip
    assert files["pdf"].path.read_bytes().startswith(b"%PDF-")


def test_a_character_that_no_font_has_is_an_error_that_names_it(tmp_path: Path) -> None:
    pytest.importorskip("typst")
    with pytest.raises(MissingGlyphsError, match=r"no installed font has .*\U0001244f.*Install") as caught:
        made(tmp_path, [row("ok"), row("cuneiform \U0001244f")], formats=["pdf"])
    assert caught.value.characters == "\U0001244f"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(PdfNotInstalledError, match=r"pip install 'beatline\[pdf\]'"):
        check_installed()


def test_rows_survive_their_way(tmp_path: Path) -> None:
    wild: list[list[object]] = [["\ud800x", None, datetime(2026, 1, 1, 5), 2**80, float("nan"), False],  # noqa: DTZ001  # without a zone
            [{"a": 1}, date(1, 1, 1), None, -1, Decimal("-0.10"), None]]  # fmt: skip
    file = io.BytesIO()
    assert write_rows(file, COLUMNS, wild) == 2
    file.seek(0)
    with read_rows(file) as (columns, rows):
        assert columns == COLUMNS
        first, second = list(rows)
    assert first[:4] == ["?x", None, datetime(2026, 1, 1, 5), 2**80]  # noqa: DTZ001
    assert str(first[4]) == "NaN"
    assert second == [json.dumps({"a": 1}), date(1, 1, 1), None, -1, Decimal("-0.10"), None]
    again = io.BytesIO()
    write_rows(again, COLUMNS, wild)
    assert again.getvalue() == file.getvalue()


MEASURE = """
import io, resource, sys, tempfile
from pathlib import Path
from datetime import date, datetime, UTC
from beatline_tasks.report.compose import Source, compose
from beatline_tasks.report.document import facts_of
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.period import period_before
from beatline_tasks.report.rows import Column, read_rows, write_rows
from beatline_tasks.report.spec import Report
count = int(sys.argv[1])
report = Report.model_validate({"title": "T", "queries": {"q": {"sql": "select 1"}}, "formats": ["html", "xlsx", "csv"],
                                "charts": {"c": {"x": "n", "y": ["x"]}}})
figures = Figures("en", report.zone)
now = datetime(2026, 12, 1, tzinfo=UTC)
facts = facts_of("r", report, period_before(now, "day", report.zone), now, "run", figures)
with tempfile.TemporaryDirectory() as name:
    path = Path(name) / "rows"
    with path.open("wb") as file:
        write_rows(file, [Column("n", "integer"), Column("x", "number"), Column("t", "text")],
                   ((n, n * 1.5, f"text of row {n} " * 5) for n in range(count)))
    with path.open("rb") as file:
        compose(report, facts, figures, {"q": Source(read_rows(file), count, False)}, Path(name))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform == "linux" else 1024))
"""


@pytest.mark.proof
@pytest.mark.timeout(240)
def test_memory_stays_flat_however_many_rows() -> None:
    def peak_kib(rows: int) -> int:
        run = subprocess.run([sys.executable, "-c", MEASURE, str(rows)], capture_output=True, text=True, check=True)
        return int(run.stdout)

    small, large = peak_kib(2_000), peak_kib(100_000)
    assert large - small < 30 * 1024, (small, large)
