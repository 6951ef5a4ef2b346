"""What a chart keeps of many rows: every peak, few points, and a word on what it leaves out."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.figures import Cell, Figures
from beatline_tasks.report.points import Points
from beatline_tasks.report.rows import Column
from beatline_tasks.report.spec import Chart, ColumnStyle

FIGURES = Figures("en", ZoneInfo("UTC"))
COLUMNS = [Column("day", "date"), Column("n", "number"), Column("name", "text")]


def points(chart: Chart) -> Points:
    return Points("c", chart, COLUMNS, {"n": ColumnStyle(title="Number", unit="kg")}, FIGURES)


def test_of_many_points_the_extremes_are_kept() -> None:
    kept = points(Chart(x="day", y=("n",)))
    for number in range(20_000):
        kept.add([date(1970, 1, 1) + timedelta(days=number), 1e6 if number == 12_345 else number % 7, None])
    chart = kept.chart()
    assert len(chart.x) < 3000
    assert max(chart.series[0].values) == 1e6
    assert list(chart.x) == sorted(chart.x)
    assert (chart.series[0].name, chart.unit, chart.note) == ("Number", "kg", "")


def test_of_many_categories_the_first_are_drawn_and_it_is_said() -> None:
    kept = points(Chart(type="bar", x="name", y=("n",)))
    for number in range(500):
        kept.add([None, Decimal(number), f"n{number}"])
    assert len(kept.chart().x) == 200
    assert kept.chart().note == "200 of 500 rows are drawn."


def test_rows_without_a_place_are_left_out_and_counted() -> None:
    kept = points(Chart(x="day", y=("n",)))
    rows: list[list[Cell]] = [[date(2026, 1, 2), 2.0, ""], [None, 9.0, ""], [date(2026, 1, 1), None, ""]]
    for row in rows:
        kept.add(row)
    chart = kept.chart()
    assert chart.note == "2 of 3 rows are drawn."
    assert list(chart.x) == sorted(chart.x)
    assert chart.series[0].values[0] != chart.series[0].values[0]  # NaN, a gap


@pytest.mark.parametrize(
    ("chart", "says"),
    [
        (Chart(x="when", y=("n",)), "charts.c: there is no column 'when'; the query gives day, n, name."),
        (Chart(x="day", y=("name",)), "charts.c.y: 'name' is text, and only numbers can be drawn."),
    ],
)
def test_a_chart_that_does_not_fit_its_query_is_refused(chart: Chart, says: str) -> None:
    with pytest.raises(ReportError) as caught:
        points(chart)
    assert str(caught.value) == says
