"""Values as people read them: numbers, dates and times in a report's language and time zone."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_skeleton, format_time, get_timezone_name
from babel.numbers import format_decimal

from beatline_tasks.report.period import Period, PeriodKind

Cell = str | int | float | Decimal | bool | date | datetime | None
"""A value of a row. A `datetime` with a zone is shown in the report's; one without is shown as it is."""

_AUTO_DECIMALS: Final = 6
MINUS: Final = "\N{MINUS SIGN}"


def wall_clock(value: datetime, zone: ZoneInfo) -> datetime | None:
    """A moment in a zone; None at the end of the calendar, which is how the driver gives `infinity`."""
    try:
        return value.astimezone(zone) if value.tzinfo else value
    except (OverflowError, ValueError):
        return None


class Figures:
    """How one report writes its values."""

    def __init__(self, locale: str, zone: ZoneInfo) -> None:
        self.locale = Locale.parse(locale)
        self.zone = zone
        self._patterns: dict[int | None, str] = {}

    def show(self, value: Cell, decimals: int | None = None, *, grouping: bool = True) -> str:
        """A value as text; nothing for None."""
        match value:
            case None:
                return ""
            case bool():
                return "\N{CHECK MARK}" if value else "\N{EN DASH}"
            case int() | float() | Decimal():
                return self.number(value, decimals, grouping=grouping)
            case datetime():
                return self.moment(value)
            case date():
                return self.day(value)
            case _:
                return value

    def number(self, value: float | Decimal, decimals: int | None = None, *, grouping: bool = True) -> str:
        """A number with its thousands apart; without `decimals`, with those that it has, at most six."""
        exact = value if isinstance(value, int | Decimal) else Decimal(repr(value))
        if isinstance(exact, Decimal) and not exact.is_finite():
            return str(exact)
        text: str = format_decimal(exact, format=self._pattern(decimals), locale=self.locale, group_separator=grouping)
        return text.replace("-", MINUS)

    def day(self, value: date) -> str:
        """A day."""
        text: str = format_date(value, "medium", locale=self.locale)
        return text

    def moment(self, value: datetime) -> str:
        """A day and a time of it, to the minute; to the second where there are any."""
        local = wall_clock(value, self.zone)
        if local is None:
            return str(value)
        length = "medium" if local.second else "short"
        day = format_date(local.date(), "medium", locale=self.locale)
        return f"{day} {format_time(local.time(), length, locale=self.locale)}"

    def parts(self, value: datetime, skeleton: str) -> str:
        """Some parts of a moment in the language's own order, by a CLDR skeleton such as `MMMd`."""
        local = value.astimezone(self.zone) if value.tzinfo else value
        text: str = format_skeleton(skeleton, local, tzinfo=local.tzinfo, locale=self.locale)
        return text

    def period(self, period: Period, kind: PeriodKind) -> str:
        """The period in words: a day, two days with a dash between, a month by its name, an hour by its clock."""
        start, end = period.start.astimezone(self.zone), period.end.astimezone(self.zone)
        if kind == "month":
            return self.parts(start, "yMMMM")
        if kind == "hour":
            return f"{self.moment(start)} \N{EN DASH} {format_time(end.time(), 'short', locale=self.locale)}"
        last = date.fromordinal(end.toordinal() - 1)
        return self.day(start.date()) if kind == "day" else f"{self.day(start.date())} \N{EN DASH} {self.day(last)}"

    def zone_name(self, at: datetime) -> str:
        """The time zone as people call it, with its offset then."""
        offset = at.astimezone(self.zone).strftime("%z")
        name: str = get_timezone_name(self.zone, width="long", locale=self.locale)
        return f"{name} (UTC{offset[:3]}:{offset[3:5]})" if offset.strip("+-0") else "UTC"

    def _pattern(self, decimals: int | None) -> str:
        if decimals not in self._patterns:
            places = "#" * _AUTO_DECIMALS if decimals is None else "0" * decimals
            self._patterns[decimals] = f"#,##0.{places}" if places else "#,##0"
        return self._patterns[decimals]
