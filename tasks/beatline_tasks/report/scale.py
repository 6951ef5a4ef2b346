"""Where an axis has its marks: round numbers, and days and hours that people count by. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_HOURS: Final = (1, 2, 3, 6, 12)
_DAYS: Final = (1, 2, 7, 14)
_MONTHS: Final = (1, 2, 3, 6, 12, 24, 60, 120, 240)
_MINUTES: Final = (1, 2, 5, 10, 15, 30)
_DAY_S: Final = 86_400.0
_NEXT_TO_NOTHING: Final = 1e-290


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high` with marks at `ticks`; `decimals` is what their labels need."""

    low: float
    high: float
    ticks: tuple[float, ...]
    decimals: int = 0

    def place(self, value: float) -> float:
        """Where a value is between the ends: 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def number_scale(values: Sequence[float], marks: int, *, from_zero: bool) -> Scale:
    """An axis with about `marks` round numbers that holds every value; with `from_zero`, zero as well.

    Zero is an end or a mark wherever it is near: an axis that leaves it out by a little misleads.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = (0.0 if abs(end) < _NEXT_TO_NOTHING else end for end in (low, high))
    if from_zero or (low > 0 and low < (high - low) * 0.5):
        low = min(low, 0.0)
    if from_zero or (high < 0 and -high < (high - low) * 0.5):
        high = max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):  # equal, or too near for marks that can be told apart
        span = abs(low) or 1.0
        low, high = (low, low + span) if low == 0 else (low - span / 2, high + span / 2)
    step = _round_step((high - low) / max(1, marks))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if not math.isclose(step * 10**decimals, round(step * 10**decimals)):
        decimals += 1  # 2.5
    return Scale(ticks[0], ticks[-1], ticks, min(decimals, 10))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step for factor in _STEPS if (step := factor * power) >= rough * (1 - 1e-9))


def time_scale(low: float, high: float, marks: int, zone: ZoneInfo) -> Scale:
    """An axis of moments (seconds since 1970) with about `marks` marks on whole units of a clock in a zone."""
    rough = (high - low) / max(1, marks)
    if rough > 14 * _DAY_S:
        ticks = _month_ticks(low, high, rough, zone)
    elif rough > 12 * 3600:
        ticks = _day_ticks(low, high, rough, zone)
    else:
        ticks = _clock_ticks(low, high, rough, zone)
    return Scale(low, high, tuple(tick for tick in ticks if low <= tick <= high))


def _month_ticks(low: float, high: float, rough: float, zone: ZoneInfo) -> list[float]:
    wanted = rough / (30.4 * _DAY_S)
    step = next((months for months in _MONTHS if months >= wanted), math.ceil(wanted / 120) * 120)
    start = datetime.fromtimestamp(low, zone)
    month = (start.year * 12 + start.month - 1) // step * step
    ticks: list[float] = []
    while month < 9990 * 12:
        tick = datetime(month // 12 or 1, month % 12 + 1, 1, tzinfo=zone).timestamp()
        if tick > high:
            break
        ticks.append(tick)
        month += step
    return ticks


def _day_ticks(low: float, high: float, rough: float, zone: ZoneInfo) -> list[float]:
    step = next((days for days in _DAYS if days * _DAY_S >= rough), _DAYS[-1])
    day = datetime.fromtimestamp(low, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    # Whole weeks begin on Mondays; the same days are marked whenever the axis begins.
    day -= timedelta(days=(day.toordinal() - 1) % step)
    ticks: list[float] = []
    while day.timestamp() <= high:
        ticks.append(day.timestamp())
        day += timedelta(days=step)
    return ticks


def _clock_ticks(low: float, high: float, rough: float, zone: ZoneInfo) -> list[float]:
    choices = [*(minutes * 60 for minutes in _MINUTES), *(hours * 3600 for hours in _HOURS)]
    step = next((seconds for seconds in choices if seconds >= rough), 12 * 3600)
    if rough < 30:
        return list(number_scale([low, high], max(1, int((high - low) / rough)), from_zero=False).ticks)
    midnight = datetime.fromtimestamp(low, zone).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    first = midnight + math.ceil((low - midnight) / step) * step
    return [first + number * step for number in range(int((high - first) // step) + 1)] if first <= high else []


def thinned(count: int, room: int) -> range:
    """Which of `count` labels are written where there is room for so many: the first, and every n-th after it."""
    return range(0, count, max(1, math.ceil(count / max(1, room))))
