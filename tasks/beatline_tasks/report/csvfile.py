"""The CSV file: UTF-8 with a mark that Excel looks for, and no cell that a spreadsheet would take for a formula."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from zoneinfo import ZoneInfo

from beatline_tasks.report.figures import Cell
from beatline_tasks.report.rows import Column

_FORMULA: Final = re.compile(r"\s*[=+\-@\t\r|%\uff1d\uff0b\uff0d\uff20]")  # the last four are the wide forms of = + - @


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
                return value.astimezone(self._zone).isoformat()
            case _:
                return str(value)


def harmless(text: str) -> str:
    """The text with ' before it where a spreadsheet would otherwise run it. Numbers are not text, and keep their minus."""
    return f"'{text}" if _FORMULA.match(text) else text
