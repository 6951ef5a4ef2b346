"""The demo's monthly figures: as a job makes them of the days, as a report shows them, and as they must come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from statistics import fmean
from typing import Any, Final

from beatline_tasks.demo.weather import Day

DAYS: Final = "weather"
"""The dataset that collect fills."""
MONTHS: Final = "weather_monthly"
"""The dataset that the job fills."""
PERIOD_END: Final = "2016-01-01T00:00:00+00:00"
"""The report's period is the month before: the last of the feed."""

_MONTHLY: Final = """
SELECT CAST(date_trunc('month', date) AS date) AS month, count(*) AS days, sum(precipitation) AS precipitation,
       avg(temp_max) AS mean_max, avg(temp_min) AS mean_min, count(*) FILTER (WHERE precipitation > 0) AS wet_days
FROM input GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class Month:
    """What a month of days comes to; temperatures in °C, precipitation in mm."""

    days: int
    precipitation: float
    mean_max: float
    mean_min: float
    wet_days: int


def monthly(days: Iterable[Day]) -> dict[date, Month]:
    """The figures by the month's first day, without a data base."""
    by_month: dict[date, list[Day]] = {}
    for day in days:
        by_month.setdefault(day.date.replace(day=1), []).append(day)
    return {
        month: Month(
            days=len(members),
            precipitation=sum(day.precipitation for day in members),
            mean_max=fmean(day.temp_max for day in members),
            mean_min=fmean(day.temp_min for day in members),
            wet_days=sum(day.precipitation > 0 for day in members),
        )
        for month, members in by_month.items()
    }


def same(one: Month, other: Month) -> bool:
    """Whether two figures are the same, but for the order in which fractions were added up."""
    return all(abs(getattr(one, name) - getattr(other, name)) < 1e-6 for name in Month.__slots__)


def job_spec() -> Mapping[str, Any]:
    """The job as a person would write it into a TOML file."""
    return {
        "input": {"dataset": DAYS},
        "transform": {"sql": _MONTHLY},
        "output": {
            "table": MONTHS,
            "mode": "upsert",
            "key": ["month"],
            "columns": {
                "month": "date",
                "days": "integer",
                "precipitation": "number",
                "mean_max": "number",
                "mean_min": "number",
                "wet_days": "integer",
            },
        },
        "checks": [
            {"type": "not_null", "columns": ["month", "mean_max", "mean_min"]},
            {"type": "range", "column": "days", "min": 28, "max": 31},
        ],
    }


def report_spec(recipient: str, *, smtp: str, shelf: str) -> Mapping[str, Any]:
    """The report as a person would write it; with a PDF where its library is installed."""
    formats = ["html", "xlsx", *(["pdf"] if find_spec("typst") else [])]
    return {
        "title": "Seattle, month by month",
        "period": "month",
        "formats": formats,
        "queries": {
            "months": {
                "sql": f"SELECT month, days, wet_days, precipitation, mean_max, mean_min FROM {MONTHS} ORDER BY month",  # noqa: S608  # our own name
                "columns": {
                    "month": {"title": "Month"},
                    "days": {"title": "Days"},
                    "wet_days": {"title": "Wet days"},
                    "precipitation": {"title": "Precipitation", "unit": "mm", "decimals": 1},
                    "mean_max": {"title": "Mean high", "unit": "°C", "decimals": 1},
                    "mean_min": {"title": "Mean low", "unit": "°C", "decimals": 1},
                },
            }
        },
        "charts": {
            "temperature": {"type": "line", "x": "month", "y": ["mean_max", "mean_min"], "title": "Temperature",
                            "unit": "°C"},
            "rain": {"type": "bar", "x": "month", "y": ["precipitation"], "title": "Precipitation", "unit": "mm"},
        },
        "email": {"connection": smtp, "to": [recipient], "attach": ["xlsx"]},
        "store": {"connection": shelf, "path": "{file}"},
        "retry_wait_s": 1,
    }  # fmt: skip
