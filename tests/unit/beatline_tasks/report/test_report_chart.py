"""Charts: well-formed SVG whatever the data holds, round marks, labels that do not overlap."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, fromstring  # what we drew ourselves
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline_tasks.report.axes import text_width
from beatline_tasks.report.chart import WIDTH, ChartData, Series, draw
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.scale import number_scale, time_scale

BERLIN = ZoneInfo("Europe/Berlin")
FIGURES = Figures("en", BERLIN)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(data: ChartData, figures: Figures = FIGURES) -> Element:
    return fromstring(draw(data, figures))  # noqa: S314


def texts(svg: Element) -> list[str]:
    return [str(element.text) for element in svg.iter(f"{SVG}text")]


def seconds(*day: int) -> float:
    return datetime(*day, tzinfo=BERLIN).timestamp()  # type: ignore[arg-type,misc]


def days(count: int) -> list[float]:
    return [seconds(2026, 1, 1) + number * 86_400 for number in range(count)]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0, 97], [0, 20, 40, 60, 80, 100]),
        ([-3.2, 17], [-5, 0, 5, 10, 15, 20]),
        ([1012, 1019], [1012, 1014, 1016, 1018, 1020]),
        ([0.001, 0.0042], [0, 0.001, 0.002, 0.003, 0.004, 0.005]),
        ([5, 5], [2, 3, 4, 5, 6, 7, 8]),
        ([0, 0], [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_marks_are_round_numbers_around_the_values(values: list[float], ticks: list[float]) -> None:
    assert list(number_scale(values, 5, from_zero=False).ticks) == pytest.approx(ticks)


def test_bars_begin_at_zero() -> None:
    assert number_scale([90, 100], 5, from_zero=True).low == 0
    assert number_scale([-100, -90], 5, from_zero=True).high == 0


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20), st.integers(1, 10), st.booleans())
def test_every_value_is_on_the_axis(values: list[float], marks: int, from_zero: bool) -> None:
    scale = number_scale(values, marks, from_zero=from_zero)
    room = 1e-6 * (scale.high - scale.low)
    assert scale.low - room <= min(values) <= max(values) <= scale.high + room
    assert len(scale.ticks) <= marks + 3


def test_time_is_marked_at_midnight_also_across_a_change_of_the_clock() -> None:
    scale = time_scale(seconds(2026, 3, 26), seconds(2026, 4, 1), 6, BERLIN)
    marks = [datetime.fromtimestamp(tick, BERLIN) for tick in scale.ticks]
    assert [(mark.day, mark.hour) for mark in marks] == [(26, 0), (27, 0), (28, 0), (29, 0), (30, 0), (31, 0), (1, 0)]


def test_months_are_marked_at_their_first() -> None:
    scale = time_scale(seconds(2026, 1, 10), seconds(2026, 12, 20), 12, BERLIN)
    assert [datetime.fromtimestamp(tick, BERLIN).day for tick in scale.ticks] == [1] * 11


def test_a_line_has_axes_legend_and_unit() -> None:
    data = ChartData("line", "time", days(31), [Series("High", range(31)), Series("Low", range(-31, 0))], "Heat", "°C")
    shown = texts(drawn(data))
    assert {"Heat", "°C", "High", "Low", "0", "\N{MINUS SIGN}40", "Jan 12"} <= set(shown)


def test_labels_along_the_bottom_do_not_overlap() -> None:
    for count in (2, 3, 9, 31, 90, 400, 3000):
        svg = drawn(ChartData("line", "time", days(count), [Series("x", range(count))]))
        _assert_apart(svg)
        svg = drawn(ChartData("bar", "category", [f"name {n}" for n in range(min(count, 200))],
                              [Series("x", range(min(count, 200)))]))  # fmt: skip
        _assert_apart(svg)


def _assert_apart(svg: Element) -> None:
    bottom: list[tuple[float, float]] = []
    for element in svg.iter(f"{SVG}text"):
        at = element.attrib
        if at["text-anchor"] == "middle" and at["font-size"] == "11":
            half = text_width(str(element.text), float(at["font-size"])) / 2
            bottom.append((float(at["x"]) - half, float(at["x"]) + half))
    bottom.sort()
    if not bottom:  # turned: a line's height apart
        turned = [float(element.attrib["x"]) for element in svg.iter(f"{SVG}text") if "transform" in element.attrib]
        assert all(after - before > 11 for before, after in pairwise(turned))
        assert len(turned) > 10
        return
    for (_, end), (start, _) in pairwise(bottom):
        assert start >= end - 0.5
    assert bottom[0][0] >= 0
    assert bottom[-1][1] <= WIDTH


def test_a_gap_breaks_the_line_and_a_lone_point_is_a_dot() -> None:
    values = [1.0, 2.0, math.nan, 4.0, math.nan, 5.0, 6.0]
    svg = drawn(ChartData("line", "number", list(range(7)), [Series("x", values)]))
    lines = [path for path in svg.iter(f"{SVG}path") if path.attrib.get("fill") == "none"]
    assert len(lines) == 2
    one = drawn(ChartData("line", "time", days(1), [Series("x", [3.0])]))
    assert len(list(one.iter(f"{SVG}circle"))) == 1
    assert "Jan 1, 2026" in texts(one)


def test_a_negative_bar_hangs_from_the_zero_line() -> None:
    svg = drawn(ChartData("bar", "category", ["a", "b", "c"], [Series("x", [-5.0, 0.0, 5.0])]))
    bars = [bar.attrib for bar in svg.iter(f"{SVG}rect")][1:]
    assert float(bars[0]["y"]) == pytest.approx(float(bars[2]["y"]) + float(bars[2]["height"]))
    assert float(bars[1]["height"]) == 0.75


@pytest.mark.parametrize("kind", ["line", "bar"])
@pytest.mark.parametrize("values", [[], [0.0], [0.0] * 5, [-1.0, -1.0], [1e15, -1e15], [math.nan] * 3, [1e-9, 2e-9]])
def test_any_values_make_a_picture_within_its_frame(kind: Any, values: list[float]) -> None:
    x: Sequence[float] | Sequence[str] = [str(n) for n in range(len(values))] if kind == "bar" else days(len(values))
    svg = draw(ChartData(kind, "category" if kind == "bar" else "time", x, [Series("x", values)]), FIGURES)
    fromstring(svg)  # noqa: S314
    assert "nan" not in svg
    assert "inf" not in svg
    for place in re.findall(r' (?:x|cx)="(-?[\d.]+)"', svg):
        assert -1 <= float(place) <= WIDTH + 1


def test_hostile_names_stay_text() -> None:
    evil = '</text><script>alert("1")</script>&\x00\x1b]\ud800\ufffe'
    svg = drawn(ChartData("bar", "category", [evil], [Series(evil, [1.0]), Series("b", [2.0])], evil, evil, evil, evil))
    assert not list(svg.iter(f"{SVG}script"))
    assert any('alert("1")' in text for text in texts(svg))
