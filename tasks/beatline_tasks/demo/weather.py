"""The days of weather that the feed serves and the count compares with."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.resources import files
from typing import Any, Final

FILE: Final = "seattle-weather.csv"


@dataclass(frozen=True, slots=True)
class Day:
    """One day as NOAA measured it."""

    date: date
    precipitation: float
    temp_max: float
    temp_min: float
    wind: float
    weather: str

    def as_json(self) -> dict[str, Any]:
        """The day as the feed serves it."""
        return asdict(self) | {"date": self.date.isoformat()}


def all_days() -> Sequence[Day]:
    """Every day of the file, in order."""
    lines = files(__package__ or "").joinpath(FILE).read_text(encoding="utf-8").splitlines()
    return [
        Day(
            date=date.fromisoformat(row["date"].replace("/", "-")),
            precipitation=float(row["precipitation"]),
            temp_max=float(row["temp_max"]),
            temp_min=float(row["temp_min"]),
            wind=float(row["wind"]),
            weather=row["weather"],
        )
        for row in csv.DictReader(lines)
    ]
