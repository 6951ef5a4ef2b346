"""The period that a report is about: the hour, day, week or month before its run, in the report's time zone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from beatline_tasks.report.errors import ReportError

PeriodKind = Literal["hour", "day", "week", "month"]


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` up to, and not including, `end`: aware, in UTC."""

    start: datetime
    end: datetime


def period_before(moment: datetime, kind: PeriodKind, zone: ZoneInfo) -> Period:
    """The last whole period before a moment. Weeks begin on Monday; a day of a time change has 23 or 25 hours."""
    local = moment.astimezone(zone)
    if kind == "hour":
        into = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        end = moment.astimezone(UTC) - into  # elapsed time: a clock that was set back repeats an hour
        return Period(end - timedelta(hours=1), end)
    today = local.date()
    if kind == "day":
        first, last = today - timedelta(days=1), today
    elif kind == "week":
        last = today - timedelta(days=today.weekday())
        first = last - timedelta(days=7)
    else:
        last = today.replace(day=1)
        first = (last - timedelta(days=1)).replace(day=1)
    return Period(_midnight(first, zone), _midnight(last, zone))


def read_moment(text: str | None) -> datetime | None:
    """A moment as people write it, with its offset; None if none is given. Raises ReportError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ReportError(f"at: is a time with its offset, such as 2026-12-01T06:00:00+01:00, not {text!r:.60}.")
    return moment


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)
