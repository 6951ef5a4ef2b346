"""What the command line prints: tables for people, in local time; JSON for programs, in UTC; remarks on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from io import TextIOWrapper
from typing import Annotated, Any, Final, cast

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with times in UTC.")]
"""The option of every command that shows something."""

_PIPE_WIDTH: Final = 10_000
_VISIBLE: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
"""Control characters in data must not reach a terminal, which would obey them."""


def emit(value: object, *, as_json: bool, columns: Sequence[str] = (), empty: str = "None.") -> None:
    """Print one thing (a mapping or dataclass) or several (a sequence of them) to stdout.

    For people, `columns` chooses and orders the fields of a table; JSON has all of them.
    """
    if as_json:
        sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False, indent=2) + "\n")
        return
    if isinstance(value, Mapping) or dataclasses.is_dataclass(value):
        fields = _fields(cast("object", value))
        _print_table([{"": name, " ": fields.get(name)} for name in columns or fields], ("", " "), headed=False)
        return
    rows = [_fields(row) for row in cast("Iterable[object]", value)]
    if not rows:
        say(empty)
        return
    _print_table(rows, columns or tuple(rows[0]), headed=True)


def say(text: str) -> None:
    """A remark or an error: to stderr, so that what is asked for stays alone on stdout."""
    sys.stderr.write(visible(text) + "\n")


def show(value: object) -> str:
    """A value as people read it: local time, nothing for None, no control characters."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case Mapping() | list() | tuple():
            return visible(json.dumps(_plain(cast("object", value)), ensure_ascii=False))
        case _:
            return visible(str(value))


def visible(text: str) -> str:
    """The text with control characters written out."""
    return text.translate(_VISIBLE)


def operator() -> str:
    """Who is at the command line, for the audit: `user@host`."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under numbers without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def accept_any_text() -> None:
    """Let stdout and stderr print whatever text comes, in whatever encoding the terminal has."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fields(value: object) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(cast("Mapping[str, Any]", value))


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bool() | int() | float() | None:
            return value
        case Mapping():
            return {str(k): _plain(v) for k, v in cast("Mapping[object, object]", value).items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in cast("Iterable[object]", value)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return _plain(_fields(value))
        case _:
            return str(value)


def _print_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, headed: bool) -> None:
    # rich takes 60 ms to import, and JSON does not need it.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD if headed else None, show_header=headed, pad_edge=False, padding=(0, 1))
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows) and headed
        table.add_column(
            column.replace("_", " ").upper(),
            justify="right" if numeric and any(row.get(column) is not None for row in rows) else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(show(row.get(column))) for column in columns))
    # In a pipe no line may be broken for the width of a terminal that is not there.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False).print(table)
