"""The axis along the bottom of a chart: where each point is, and which labels there is room for. Pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from beatline_tasks.report.figures import Figures
from beatline_tasks.report.scale import Scale, number_scale, thinned, time_scale

_GAP: Final = 14.0
_LINE: Final = 24.0
_LABEL_CHARS: Final = 22
_TURNED_MOST: Final = 40
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Axis:
    """`places` has each point's position from 0 to 1, `marks` the positions and texts of labels; pixels below the axis and left of it."""

    places: Sequence[float]
    marks: Sequence[tuple[float, str]]
    height: float = _LINE
    turned: bool = False
    overhang: float = 0.0


def text_width(text: str, size: float) -> float:
    """About how wide a text is in pixels: a little too wide rather than too narrow."""
    return sum(_width(char) for char in text) * size


def _width(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.02
    if char in "il.,:;'|! ":
        return 0.34
    return 0.68 if char.isupper() or char in "mw%@" else 0.58


def category_axis(labels: Sequence[str], room: float, size: float) -> Axis:
    """A place in the middle of its slot for each label. Labels are turned, or some left out, where they would overlap."""
    count = max(1, len(labels))
    places = [(number + 0.5) / count for number in range(len(labels))]
    short = [_shortened(label) for label in labels]
    widest = max((text_width(label, size) for label in short), default=0.0)
    if widest + _GAP / 2 > room / count and len(labels) <= _TURNED_MOST and size + 3 < room / count:
        slope = math.radians(38)
        marks = list(zip(places, short, strict=True))
        below, beside = widest * math.sin(slope) + 20, widest * math.cos(slope) - room / count / 2 + size
        return Axis(places, marks, below, turned=True, overhang=beside)
    shown = thinned(len(labels), int(room / (widest + _GAP)))
    return Axis(places, [(places[number], short[number]) for number in shown])


def number_axis(values: Sequence[float], figures: Figures, room: float, size: float) -> Axis:
    """Round numbers, as many as there is room for."""
    if not values:
        return Axis([], [])
    scale, marks = _number_marks(values, 10, figures)
    for count in range(9, 0, -1):
        if _fits(marks, room, size):
            break
        scale, marks = _number_marks(values, count, figures)
    return Axis([scale.place(value) for value in values], marks)


def time_axis(values: Sequence[float], figures: Figures, room: float, size: float) -> Axis:
    """Days, months or hours, as many as there is room for."""
    if not values:
        return Axis([], [])
    if min(values) == max(values):
        moment = datetime.fromtimestamp(values[0], figures.zone)
        midnight = moment.hour == 0 and moment.minute == 0
        return Axis([0.5] * len(values), [(0.5, figures.day(moment.date()) if midnight else figures.moment(moment))])
    low, high = min(values), max(values)
    scale = time_scale(low, high, 12, figures.zone)
    marks = _time_marks(scale, figures)
    for count in range(11, 0, -1):
        if _fits(marks, room, size):
            break
        scale = time_scale(low, high, count, figures.zone)
        marks = _time_marks(scale, figures)
    return Axis([scale.place(value) for value in values], marks)


def _number_marks(values: Sequence[float], count: int, figures: Figures) -> tuple[Scale, list[tuple[float, str]]]:
    scale = number_scale(values, count, from_zero=False)
    return scale, [(scale.place(tick), figures.number(float(f"{tick:.12g}"), scale.decimals)) for tick in scale.ticks]


def _time_marks(scale: Scale, figures: Figures) -> list[tuple[float, str]]:
    moments = [datetime.fromtimestamp(tick, figures.zone) for tick in scale.ticks]
    step_s = min((b - a for a, b in zip(scale.ticks, scale.ticks[1:], strict=False)), default=_DAY_S)
    marks: list[tuple[float, str]] = []
    year = None
    for tick, moment in zip(scale.ticks, moments, strict=True):
        same_year = moment.year == year
        if step_s > 360 * _DAY_S:
            parts = "y"
        elif step_s > 20 * _DAY_S:
            parts = "MMM" if same_year else "yMMM"
        elif step_s > 20 * 3600 or (moment.hour == 0 and moment.minute == 0):
            parts = "MMMd" if same_year or year is None else "yMMMd"
        else:
            parts = "Hm" if step_s >= 60 else "Hms"
        label = figures.parts(moment, parts)
        year = moment.year
        marks.append((scale.place(tick), label))
    return marks


def _fits(marks: Sequence[tuple[float, str]], room: float, size: float) -> bool:
    end = -math.inf
    for place, label in marks:
        half = text_width(label, size) / 2
        if place * room - half < end:
            return False
        end = place * room + half + _GAP / 2
    return True


def _shortened(label: str) -> str:
    # Names that begin alike differ in their ends.
    if len(label) <= _LABEL_CHARS:
        return label
    half = _LABEL_CHARS // 2
    return f"{label[:half].rstrip()}\N{HORIZONTAL ELLIPSIS}{label[1 - half :].lstrip()}"
