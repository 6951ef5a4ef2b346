"""The rows of a query on their way from one step to the next: a gzip file, one JSON line a row, its types first."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from io import TextIOWrapper
from typing import IO, Any, BinaryIO, Final, Literal, cast

from beatline_tasks.report.figures import Cell

ColumnKind = Literal["text", "integer", "number", "boolean", "date", "timestamp"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query's answer."""

    name: str
    kind: ColumnKind

    @property
    def is_number(self) -> bool:
        """Whether its values are set at the right and can be added up."""
        return self.kind in ("integer", "number")


def write_rows(file: IO[bytes], columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> int:
    """Write the rows as they come, and say how many they were."""
    count = 0
    # The time of writing is left out: the same rows are the same file.
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0) as packed:
        packed.write(_line([[column.name, column.kind] for column in columns]))
        for row in rows:
            packed.write(_line([_stored(value) for value in row]))
            count += 1
    return count


@contextmanager
def read_rows(file: BinaryIO) -> Generator[tuple[list[Column], Iterator[list[Cell]]]]:
    """The columns, and the rows one by one."""
    with gzip.GzipFile(fileobj=file, mode="rb") as packed, TextIOWrapper(packed, encoding="utf-8") as lines:
        columns = [Column(name, kind) for name, kind in json.loads(next(lines))]
        yield columns, _read(lines, [_READERS.get(column.kind) for column in columns])


def _read(lines: Iterable[str], readers: Sequence[Callable[[Any], Cell] | None]) -> Iterator[list[Cell]]:
    for line in lines:
        values: list[Any] = json.loads(line)
        yield [
            value if reader is None or value is None else reader(value)
            for value, reader in zip(values, readers, strict=True)
        ]


def _line(values: Sequence[object]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def _stored(value: object) -> object:
    """A value as JSON holds it; what JSON has no form for is text, and what a type cannot be told by is, too."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if value - value == 0 else str(Decimal(value))  # NaN and the infinities
        case Decimal():
            return str(value)
        case date():
            return value.isoformat()
        case memoryview() | bytes():
            return "\\x" + bytes(cast("bytes", value)).hex()
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return str(value)


def _number(value: object) -> Cell:
    return Decimal(value) if isinstance(value, str) else cast("Cell", value)


_READERS: Final[Mapping[str, Callable[[Any], Cell]]] = {
    "number": _number,
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
}
