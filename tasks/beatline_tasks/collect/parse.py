"""Rows out of a body: JSON whole, CSV and JSON lines row by row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Final, NoReturn, cast

from beatline.datasets.columns import shown
from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.pagination import dig
from beatline_tasks.collect.rows import Unreadable
from beatline_tasks.collect.source import Source

_LINE_BYTES: Final = 8 * 2**20
_NAMES_SHOWN: Final = 12


def parse_json(source: Source, body: IO[bytes], where: str) -> tuple[object, list[object]]:
    """The body and the list of rows in it. Raises SourceError saying what the body is instead."""
    try:
        whole: object = json.load(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise SourceError(f"{where} is no JSON: {str(exc) or 'nested too deep'}.") from None
    rows = dig(whole, source.records)
    if isinstance(rows, list):
        return whole, cast("list[object]", rows)
    if isinstance(whole, dict):
        names = [str(name) for name in cast("dict[object, object]", whole)]
        listed = ", ".join(names[:_NAMES_SHOWN])
        raise SourceError(
            f"{where} has no list of rows at {source.records or 'its top'!r}, it is an object with the fields: {listed}. "
            'Name the list in records, as in records = "data.items".'
        )
    raise SourceError(f"{where} has no list of rows at {source.records or 'its top'!r}, it is {shown(whole)}.")


def parse_lines(source: Source, body: IO[bytes], where: str) -> Iterator[object]:
    """The rows of a body with one row a line, read as they are asked for."""
    return _csv_rows(source, body, where) if source.format == "csv" else _json_lines(body)


def _csv_rows(source: Source, body: IO[bytes], where: str) -> Iterator[object]:
    text = io.TextIOWrapper(body, encoding=source.csv.encoding, newline="")
    reader = csv.DictReader(text, delimiter=source.csv.delimiter)
    try:
        header = list(reader.fieldnames or ())
        _check_header(source, header, where)
        yield from reader
    except UnicodeDecodeError as exc:
        raise SourceError(
            f"{where} is not {source.csv.encoding} after line {reader.line_num}: {exc.reason}. Set csv.encoding."
        ) from None
    except csv.Error as exc:
        raise SourceError(f"{where} is no CSV after line {reader.line_num}: {exc}.") from None
    finally:
        with suppress(ValueError):  # closed already by its owner, who gave up reading
            text.detach()


def _check_header(source: Source, header: list[str], where: str) -> None:
    if not header:
        return
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise SourceError(f"{where} names a column twice: {', '.join(sorted(map(repr, twice)))}.")
    absent = [name for name in source.typed if name not in header]
    if absent:
        raise SourceError(
            f"{where} has no column {', '.join(map(repr, absent))}; its columns are: {', '.join(header[:_NAMES_SHOWN])}. "
            "Correct key and columns, or csv.delimiter."
        )


def _json_lines(body: IO[bytes]) -> Iterator[object]:
    while line := body.readline(_LINE_BYTES):
        if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
            while (rest := body.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Unreadable(f"the line has more than {_LINE_BYTES:,} bytes")
        elif line.strip():
            yield _json_line(line)


def _json_line(line: bytes) -> object:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        return Unreadable(f"no JSON: {str(exc) or 'nested too deep'}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
