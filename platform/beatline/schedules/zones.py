"""Time zones, dates and durations as people write them, refused with a sentence when they mean nothing."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

_YEARS: Final = range(1970, 2200)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@cache
def _known() -> frozenset[str]:
    return frozenset(available_timezones() - {"Factory", "localtime"})


def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises ValueError, with the names that come close."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name[:80]!r}{_closest(name)}") from None


def is_zone(name: str) -> bool:
    """Whether there is a time zone of this name, spelled like this."""
    return name in _known()


def check_zone(name: str) -> str:
    """A zone's name, unchanged, spelled as the IANA data base spells it. Raises ValueError."""
    if not is_zone(name):
        raise ValueError(f"there is no time zone {name[:80]!r}{_closest(name)}")
    return name


def _closest(name: str) -> str:
    wanted = name[:80].strip().replace(" ", "_").lower()
    by_city = {known.rpartition("/")[2].lower(): known for known in sorted(_known(), reverse=True)}
    by_name = {known.lower(): known for known in _known()} | by_city
    close = dict.fromkeys(by_name[hit] for hit in get_close_matches(wanted, by_name, n=3, cutoff=0.8))
    return f"; did you mean {' or '.join(close)}?" if close else "; names look like Asia/Shanghai or UTC"


def read_time(text: str | datetime, tz: str) -> datetime:
    """A date in ISO 8601 as aware UTC; one without an offset is local time in `tz`. Raises ValueError.

    A local time that the clock skips when it goes forward does not exist and is refused; of one that comes twice, the
    first is meant.
    """
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else text
    except ValueError:
        raise ValueError(f"{str(text)[:80]!r} is not a date; dates look like 2027-01-31T09:00") from None
    if moment.year not in _YEARS:
        raise ValueError(f"the year {moment.year} is not between {_YEARS.start} and {_YEARS.stop - 1}")
    if moment.tzinfo is not None:
        return moment.astimezone(UTC)
    local = moment.replace(tzinfo=zone(tz), fold=0)
    utc = local.astimezone(UTC)
    if utc.astimezone(local.tzinfo).replace(tzinfo=None) != moment:
        raise ValueError(f"{moment.isoformat()} does not exist in {tz}: the clock goes forward over it that day")
    return utc


def read_duration_s(text: str | float) -> float:
    """Seconds of a duration: a number of seconds, or `250ms`, `90s`, `5m`, `1h30m`, `1d`, `2w`. Raises ValueError."""
    if isinstance(text, bool):
        raise ValueError("true and false are no duration")  # noqa: TRY004  # pydantic reads ValueError
    if isinstance(text, int | float):
        return float(text)
    compact = text.replace(" ", "").lower()
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        try:
            return float(compact)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is not a duration; durations look like 30s, 5m, 1h30m or 250ms") from None
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def in_words(duration: timedelta) -> str:
    """A duration as read_duration_s reads it: `1h30m`."""
    left_us = duration // timedelta(microseconds=1)
    words = ""
    for unit in ("w", "d", "h", "m"):
        count, left_us = divmod(left_us, round(_UNIT_S[unit] * 1_000_000))
        words += f"{count}{unit}" if count else ""
    return words + (f"{left_us / 1_000_000:g}s" if left_us or not words else "")
