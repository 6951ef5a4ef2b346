"""The parts of RedBeat 2.4, Celery 5.7 and dateutil that Beat rests on, as their sources have them.

They bring no annotations of their own. What is declared here is the whole surface that an upgrade must be checked
against; a unit test compares it with what is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

__all__ = [
    "DAILY", "JSONEncoder", "RedBeatScheduler", "RedBeatSchedulerEntry", "acquire_distributed_beat_lock", "crontab",
    "rrule", "schedule",
]  # fmt: skip

if TYPE_CHECKING:
    import json

    DAILY: int

    class schedule:
        """celery.schedules.schedule"""

        run_every: timedelta

        def __init__(self, run_every: timedelta | float | None = None) -> None: ...

    class crontab:
        """celery.schedules.crontab"""

        def __init__(
            self,
            minute: str = "*",
            hour: str = "*",
            day_of_week: str = "*",
            day_of_month: str = "*",
            month_of_year: str = "*",
        ) -> None: ...

    class rrule:
        """redbeat.schedules.rrule"""

        count: int | None
        dtstart: datetime
        until: datetime | None
        rrule: Iterator[datetime]

        def __init__(self, freq: int, dtstart: datetime | None = None, *, count: int | None = None) -> None: ...

    class JSONEncoder(json.JSONEncoder):
        """redbeat.decoder.RedBeatJSONEncoder"""

    class RedBeatSchedulerEntry:
        """redbeat.schedulers.RedBeatSchedulerEntry"""

        app: Any
        name: str
        task: str
        schedule: Any
        args: Any
        kwargs: Any
        options: dict[str, Any]
        enabled: bool
        last_run_at: datetime
        total_run_count: int

        def __init__(self, name: str | None = None, task: str | None = None, **fields: Any) -> None: ...
        @classmethod
        def from_key(cls, key: str, app: Any = None) -> Any: ...
        def save(self) -> Any: ...
        @staticmethod
        def decode_definition(definition: str | None) -> dict[str, Any]: ...
        @staticmethod
        def decode_meta(meta: str | None, app: Any = None) -> dict[str, Any]: ...

    class RedBeatScheduler:
        """redbeat.schedulers.RedBeatScheduler"""

        app: Any
        lock_key: str
        lock_timeout: float
        max_interval: float

        def __init__(
            self, app: Any, lock_key: str | None = None, lock_timeout: float | None = None, **options: Any
        ) -> None: ...
        def close(self) -> None: ...

    def acquire_distributed_beat_lock(sender: Any = None, **options: Any) -> None: ...

else:
    from celery.schedules import crontab, schedule
    from dateutil.rrule import DAILY
    from redbeat.decoder import RedBeatJSONEncoder as JSONEncoder
    from redbeat.schedulers import RedBeatScheduler, RedBeatSchedulerEntry, acquire_distributed_beat_lock
    from redbeat.schedules import rrule
