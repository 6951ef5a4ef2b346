"""The CSV file: UTF-8 with a mark that Excel looks for, and no cell that a spreadsheet would take for a formula.

In half of the world Excel splits a file at semicolons, and a quote inside of a cell quotes nothing: there a text begins
a cell after each of its own semicolons and line ends, too.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from zoneinfo import ZoneInfo

from beatline_tasks.report.figures import Cell, wall_clock
from beatline_tasks.report.rows import Column

_BEGIN: Final = r"=+\-@|%\uff1d\uff0b\uff0d\uff20"  # the last four are the wide forms of = + - @
_FORMULA: Final = re.compile(rf"""^(?=\s*[\t\r{_BEGIN}])|(?<=[;\n\r])(?=(?:[^\S\n\r]|")*[{_BEGIN}])""")


class CsvFile:
    """All rows of one query, as programs read them: ISO dates, plain numbers, times with their offset."""

    def __init__(self, path: Path, columns: Sequence[Column], zone: ZoneInfo) -> None:
        self._file = path.open("w", encoding="utf-8-sig", newline="", errors="replace")
        self._writer = csv.writer(self._file)
        self._zone = zone
        self._writer.writerow([harmless(column.name) for column in columns])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Sequence[Cell]) -> None:
        """Write one row."""
        self._writer.writerow([self._plain(value) for value in row])

    def _plain(self, value: Cell) -> str:
        match value:
            case None:
                return ""
            case bool():
                return "true" if value else "false"
            case str():
                return harmless(value)
            case datetime() if value.tzinfo:
                local = wall_clock(value, self._zone)
                return str(value) if local is None else local.isoformat()
            case _:
                return str(value)


def harmless(text: str) -> str:
    """The text with ' wherever a spreadsheet would otherwise run it. Numbers are not text, and keep their minus."""
    return _FORMULA.sub("'", text)
