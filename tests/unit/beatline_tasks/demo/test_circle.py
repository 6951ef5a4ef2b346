"""The second half of the demo: figures without a data base, and a count that finds what is lost or doubled."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from importlib import import_module
from io import BytesIO
from typing import Any

import pytest

from beatline_tasks.demo.circle_verdict import Circle, judge_circle
from beatline_tasks.demo.months import monthly
from beatline_tasks.demo.weather import all_days
from beatline_tasks.demo.workbook import data_rows


@pytest.fixture
def sound() -> Circle:
    months = monthly(all_days())
    return Circle(
        expected=months,
        months=dict(months),
        posted={"demo01": 0, "demo07": 1},
        deliveries={"email sent": 1, "store sent": 1},
        messages={"processed": 1},
        on_shelf={"seattle.html": "aa", "seattle.xlsx": "bb"},
        attached=["bb"],
        checked={"bb": len(months)},
        polls=40,
    )


def test_the_figures_are_those_of_the_days() -> None:
    months = monthly(all_days())
    assert len(months) == 48
    december = months[date(2015, 12, 1)]
    days = [day for day in all_days() if (day.date.year, day.date.month) == (2015, 12)]
    assert december.days == len(days) == 31
    assert december.precipitation == pytest.approx(sum(day.precipitation for day in days))
    assert december.wet_days == sum(day.precipitation > 0 for day in days)


def test_a_mail_that_came_round_lacks_nothing(sound: Circle) -> None:
    verdict = judge_circle(sound)
    assert (verdict.lost, verdict.doubled, list(verdict.problems)) == (0, 0, [])


LOST: list[tuple[dict[str, Any], str]] = [
    ({"months": {}}, "48 months are missing"),
    ({"posted": {"demo07": 0}, "messages": {}}, "lies in no mailbox"),
    ({"messages": {}}, "1 mails were not found by polling"),
    ({"messages": {"failed": 1}}, "1 messages were not processed"),
    ({"deliveries": {"email unknown": 1}}, "1 deliveries were not sent"),
    ({"attached": []}, "No workbook came back"),
    ({"checked": {"bb": 47}}, "No workbook came back"),
    ({"on_shelf": {"seattle.xlsx": "cc"}}, "No workbook came back"),
]


@pytest.mark.parametrize(("change", "words"), LOST)
def test_what_is_lost_is_counted_and_told(sound: Circle, change: dict[str, Any], words: str) -> None:
    verdict = judge_circle(replace(sound, **change))
    assert verdict.lost > 0
    assert any(words in problem for problem in verdict.problems), verdict.problems


def test_a_month_that_is_other_than_its_days_is_lost(sound: Circle) -> None:
    first = min(sound.months)
    wrong = {**sound.months, first: replace(sound.months[first], mean_max=99.0)}
    assert judge_circle(replace(sound, months=wrong)).lost == 1


def test_a_mail_that_is_there_twice_is_doubled(sound: Circle) -> None:
    twice = replace(sound, posted={"demo07": 1, "demo08": 1}, messages={"processed": 2})
    assert (judge_circle(twice).lost, judge_circle(twice).doubled) == (0, 1)
    stored_twice = replace(sound, messages={"processed": 2})
    assert judge_circle(stored_twice).doubled == 1


def test_rows_with_numbers_are_counted_and_headings_are_not() -> None:
    file = BytesIO()
    xlsxwriter: Any = import_module("xlsxwriter")  # untyped
    book = xlsxwriter.Workbook(file, {"constant_memory": True})
    sheet = book.add_worksheet("Months")
    for column, heading in enumerate(("Month", "Days")):
        sheet.write_string(0, column, heading)
    for row in range(1, 13):
        sheet.write_string(row, 0, f"2015-{row:02}")
        sheet.write_number(row, 1, 30)
    book.close()
    assert data_rows(file) == 12
