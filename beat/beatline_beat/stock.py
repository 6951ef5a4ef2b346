"""Celery's and RedBeat's schedule objects, read as triggers and written so that stock RedBeat gives the next slot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from beatline.errors import DefinitionError
from beatline.schedules.model import Cron, Interval, Trigger
from beatline_beat.seams import DAILY, crontab, rrule, schedule

Stock = schedule | crontab | rrule

_PLAIN: Final = re.compile(r"(\*(/\d+)?|\d+(-\d+(/\d+)?)?)(,(\*(/\d+)?|\d+(-\d+(/\d+)?)?))*")
"""A cron field that Celery and cronsim read alike: no names, no `5/10`, and ranges are checked apart."""

_FIELDS: Final = (
    ("minute", 0, 59), ("hour", 0, 23), ("day_of_month", 1, 31), ("month_of_year", 1, 12), ("day_of_week", 0, 6),
)  # fmt: skip

_SUPPORTED_OPTIONS: Final = frozenset({"queue", "priority"})


def raw_trigger(stock: object, anchor: datetime | None) -> dict[str, Any]:
    """What `read_spec` takes as `trigger` for a schedule of `beat_schedule` or RedBeat; intervals count from `anchor`.

    Without an anchor the interval keeps the one it has, or counts from when it is added. Raises DefinitionError for a schedule that has no counterpart yet.
    """
    if isinstance(stock, bool):
        raise DefinitionError("true and false are no schedule.")
    if isinstance(stock, int | float):
        stock = schedule(timedelta(seconds=stock))
    if isinstance(stock, timedelta):
        stock = schedule(stock)
    if isinstance(stock, crontab):
        return {"type": "cron", "expr": _cron_of(stock), "tz": "UTC"}
    if isinstance(stock, rrule):
        return _date_of(stock)
    if type(stock) is schedule:
        start = {} if anchor is None else {"start": anchor}
        return {"type": "interval", "every_s": stock.run_every.total_seconds(), **start}
    raise DefinitionError(
        f"a schedule of the type {type(stock).__name__} is not supported; use a crontab, a number of seconds or a "
        "timedelta."
    )


def unsupported_options(options: Mapping[str, Any]) -> list[str]:
    """Send options of an entry that a schedule does not keep."""
    return sorted(name for name, value in options.items() if name not in _SUPPORTED_OPTIONS and value is not None)


def _cron_of(stock: crontab) -> str:
    fields = {name: _field_of(stock, name, low, high) for name, low, high in _FIELDS}
    if not fields["day_of_month"].startswith("*") and not fields["day_of_week"].startswith("*"):
        raise DefinitionError(
            "a crontab with both day_of_month and day_of_week means days that are both in Celery and days that are "
            "either in cron; write it with `beatline schedules add --cron`, where MON#1 is the first Monday."
        )
    return " ".join(fields.values())


def _field_of(stock: crontab, name: str, low: int, high: int) -> str:
    """The field as it was written, where cronsim reads it alike; else the numbers it stands for."""
    written, numbers = str(getattr(stock, f"_orig_{name}")), sorted(getattr(stock, name))
    if _PLAIN.fullmatch(written) and not any(
        int(start) > int(end) for start, end in re.findall(r"(\d+)-(\d+)", written)
    ):
        return written
    return "*" if numbers == list(range(low, high + 1)) else ",".join(map(str, numbers))


def _date_of(stock: rrule) -> dict[str, Any]:
    if stock.count == 1 or (stock.until is not None and stock.until == stock.dtstart):
        first = next(iter(stock.rrule), None)
        if first is not None:
            return {"type": "date", "at": first.astimezone(UTC), "tz": "UTC"}
    raise DefinitionError("an rrule is supported with count=1 only; write a cron expression or an interval.")


def stock_of(trigger: Trigger, upcoming: datetime) -> Stock:
    """A schedule that stock RedBeat can store and read, and whose next time is the trigger's: `upcoming`."""
    if isinstance(trigger, Interval):
        return schedule(trigger.every)
    if isinstance(trigger, Cron):
        same = _crontab_of(trigger)
        if same is not None:
            return same
    # Stock RedBeat keeps whole seconds.
    return rrule(freq=DAILY, dtstart=upcoming.replace(microsecond=0), count=1)


def _crontab_of(trigger: Cron) -> crontab | None:
    parts = trigger.expr.split()
    if trigger.tz != "UTC" or len(parts) != 5 or not all(_PLAIN.fullmatch(part) for part in parts):
        return None
    minute, hour, day, month, weekday = parts
    if "7" in re.findall(r"\d+", weekday) or not (day.startswith("*") or weekday.startswith("*")):
        return None  # Celery's week has no day 7, and it takes both fields of days together
    return crontab(minute=minute, hour=hour, day_of_month=day, month_of_year=month, day_of_week=weekday)


def last_run_of(trigger: Trigger, decided_until: datetime, upcoming: datetime) -> datetime:
    """The last run from which stock RedBeat computes `upcoming`."""
    return upcoming - trigger.every if isinstance(trigger, Interval) else decided_until
