"""The one place that reads the clock: wall time is aware UTC, measured time is monotonic."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def utc_today() -> date:
    """The current day in UTC: the partition a new run belongs to."""
    return utc_now().date()


def monotonic_s() -> float:
    """Seconds of a clock that never steps; only differences mean anything."""
    return time.monotonic()
