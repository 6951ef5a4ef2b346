"""A line or bar chart as SVG: round marks, labels that do not overlap, gaps where there is no value. Pure.

Text is plain text elements in a sans-serif face, so that browsers, typst and editors show it alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

from beatline_tasks.report.axes import Axis, category_axis, number_axis, text_width, time_axis
from beatline_tasks.report.figures import Figures
from beatline_tasks.report.scale import Scale, number_scale

WIDTH: Final = 760
HEIGHT: Final = 320
FONT: Final = "Inter, 'Noto Sans', 'DejaVu Sans', 'Noto Sans CJK SC', Helvetica, Arial, sans-serif"
COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#c026d3", "#dc2626", "#0891b2", "#65a30d", "#64748b")
"""Told apart also by those who see few colours, as their lightness differs."""

_INK: Final = "#1f2933"
_QUIET: Final = "#5f6c7b"
_GRID: Final = "#e3e8ee"
_LABEL: Final = 11
_MARKED_POINTS: Final = 45
_VALUED_BARS: Final = 14


@dataclass(frozen=True, slots=True)
class Series:
    """A name, and a value for each x; NaN where there is none."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class ChartData:
    """What a chart shows. `x` is seconds since 1970 for `time`, numbers for `number`, labels for `category`."""

    type: Literal["line", "bar"]
    x_kind: Literal["time", "number", "category"]
    x: Sequence[float] | Sequence[str]
    series: Sequence[Series]
    title: str = ""
    unit: str = ""
    x_title: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Frame:
    """The area inside the axes."""

    left: float
    top: float
    right: float
    bottom: float

    def x(self, place: float) -> float:
        return self.left + place * (self.right - self.left)

    def y(self, place: float) -> float:
        return self.bottom - place * (self.bottom - self.top)


def draw(data: ChartData, figures: Figures) -> str:
    """The chart as an SVG document of its own."""
    known = [value for series in data.series for value in series.values if math.isfinite(value)]
    # Bars are compared by their length, so they begin at zero.
    vertical = number_scale(known, 5, from_zero=data.type == "bar" or not known)
    labels = [figures.number(_clean(tick), vertical.decimals) for tick in vertical.ticks]
    legend, rows = _legend(data)
    left = max(text_width(label, _LABEL) for label in labels) + 16
    top = (26 if data.title else 6) + rows * 18 + (22 if data.unit else 8)
    axis = _horizontal(data, figures, WIDTH - 14 - left)
    if axis.overhang > left - 4:
        left = axis.overhang + 4
        axis = _horizontal(data, figures, WIDTH - 14 - left)
    bottom = HEIGHT - axis.height - (18 if data.x_title else 4) - (14 if data.note else 0)
    frame = _Frame(left, top, WIDTH - 14, bottom)
    parts = [
        *_titles(data, frame),
        *legend,
        *_grid(frame, vertical, labels),
        *_x_labels(frame, axis),
        *(_bars(data, frame, vertical, figures) if data.type == "bar" else _lines(data, frame, vertical, axis)),
    ]
    if not known:
        middle = (frame.left + frame.right) / 2
        parts.append(_text(middle, (frame.top + frame.bottom) / 2, "No values", 13, _QUIET, "middle"))
    said = quoteattr(_legible(data.title or "Chart"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label={said} font-family={quoteattr(FONT)}>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _horizontal(data: ChartData, figures: Figures, room: float) -> Axis:
    if data.x_kind == "category":
        return category_axis([str(label) for label in data.x], room, _LABEL)
    numbers = [float(value) for value in data.x]
    if data.x_kind == "time":
        return time_axis(numbers, figures, room, _LABEL)
    return number_axis(numbers, figures, room, _LABEL)


def _titles(data: ChartData, frame: _Frame) -> Iterator[str]:
    if data.title:
        yield _text(4, 17, data.title, 14, _INK, "start", weight="600")
    if data.unit:
        yield _text(4, frame.top - 11, data.unit, _LABEL, _QUIET, "start")
    middle = (frame.left + frame.right) / 2
    if data.x_title:
        yield _text(middle, HEIGHT - 6 - (14 if data.note else 0), data.x_title, _LABEL, _QUIET, "middle")
    if data.note:
        yield _text(frame.left, HEIGHT - 5, data.note, 10, _QUIET, "start", style="italic")


def _legend(data: ChartData) -> tuple[list[str], int]:
    """The names of several series beside their colours, and how many rows they take."""
    if len(data.series) < 2:
        return [], 0
    parts: list[str] = []
    x, row, top = 4.0, 0, 36 if data.title else 16
    for number, series in enumerate(data.series):
        name = shortened(series.name, 40)
        width = 18 + text_width(name, 12) + 18
        if x + width > WIDTH - 4 and x > 4:
            x, row = 4.0, row + 1
        y = top + row * 18
        parts.append(f'<rect x="{x:.1f}" y="{y - 9}" width="12" height="10" rx="2" fill="{_colour(number)}"/>')
        parts.append(_text(x + 18, y, name, 12, _INK, "start"))
        x += width
    return parts, row + 1


def _grid(frame: _Frame, scale: Scale, labels: Sequence[str]) -> Iterator[str]:
    for tick, label in zip(scale.ticks, labels, strict=True):
        y = frame.y(scale.place(tick))
        zero = math.isclose(tick, 0, abs_tol=1e-12)
        colour = "#7b8794" if zero else _GRID
        yield f'<path d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}" stroke="{colour}" stroke-width="1"/>'
        yield _text(frame.left - 8, y + 4, label, _LABEL, _QUIET, "end")


def _x_labels(frame: _Frame, axis: Axis) -> Iterator[str]:
    for place, label in axis.marks:
        x = frame.x(place)
        yield f'<path d="M{x:.1f} {frame.bottom:.1f}v4" stroke="#7b8794" stroke-width="1"/>'
        if axis.turned:
            turn = f' transform="rotate(-38 {x:.1f} {frame.bottom + 14:.1f})"'
            yield _text(x + 4, frame.bottom + 14, label, _LABEL, _QUIET, "end", extra=turn)
            continue
        half = text_width(label, _LABEL) / 2
        # A label at the edge leans inwards, instead of being cut by the picture's end.
        centre = min(max(x, half + 2), WIDTH - half - 2)
        yield _text(centre, frame.bottom + 17, label, _LABEL, _QUIET, "middle")


def _lines(data: ChartData, frame: _Frame, scale: Scale, axis: Axis) -> Iterator[str]:
    marked = len(data.x) <= _MARKED_POINTS
    for number, series in enumerate(data.series):
        colour = _colour(number)
        for run in _runs(axis.places, series.values):
            points = [(frame.x(place), frame.y(scale.place(value))) for place, value in run]
            if len(points) > 1:
                path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
                yield (
                    f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" '
                    'stroke-linejoin="round" stroke-linecap="round"/>'
                )
            if marked or len(points) == 1:
                for x, y in points:
                    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.6 if len(points) > 1 else 3.5}" fill="{colour}"/>'


def _runs(places: Sequence[float], values: Sequence[float]) -> Iterator[list[tuple[float, float]]]:
    """Stretches without a gap."""
    run: list[tuple[float, float]] = []
    for place, value in zip(places, values, strict=True):
        if math.isfinite(value):
            run.append((place, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _bars(data: ChartData, frame: _Frame, scale: Scale, figures: Figures) -> Iterator[str]:
    slots, count = max(1, len(data.x)), len(data.series)
    slot = (frame.right - frame.left) / slots
    group = slot * (0.72 if slot > 6 else 0.9)
    width = min(group / count, 64.0)
    zero = frame.y(scale.place(0))
    exact = all(value % 1 == 0 for series in data.series for value in series.values if math.isfinite(value))
    decimals = 0 if exact else min(scale.decimals + 1, 2)
    for number, series in enumerate(data.series):
        for index, value in enumerate(series.values):
            if not math.isfinite(value):
                continue
            x = frame.left + slot * (index + 0.5) + (number - count / 2) * width
            y = frame.y(scale.place(value))
            top, height = min(y, zero), max(abs(y - zero), 0.75)  # a zero is a bar too, a flat one
            yield (
                f'<rect x="{x:.2f}" y="{top:.2f}" width="{max(width * 0.94, 0.5):.2f}" height="{height:.2f}" '
                f'fill="{_colour(number)}"/>'
            )
            label = figures.number(_clean(value), decimals)
            if count == 1 and slots <= _VALUED_BARS and text_width(label, 10) < slot:
                below = value < 0
                yield _text(x + width * 0.47, y + (13 if below else -5), label, 10, _INK, "middle")


def shortened(text: str, chars: int) -> str:
    """The text, cut with an ellipsis where it is longer."""
    return text if len(text) <= chars else text[: chars - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _clean(number: float) -> float:
    """Without the tail of binary arithmetic: 0.3, not 0.30000000000000004; zero has no sign."""
    return float(f"{number:.12g}") + 0.0


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _legible(text: str) -> str:
    """The text without characters that XML forbids."""
    return "".join(char if char.isprintable() else " " for char in text)


def _text(
    x: float,
    y: float,
    text: str,
    size: int,
    fill: str,
    anchor: str,
    *,
    weight: str = "",
    style: str = "",
    extra: str = "",
) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    slant = f' font-style="{style}"' if style else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{bold}{slant}{extra}>'
        f"{escape(_legible(text))}</text>"
    )
