"""Tables for people in local time, JSON for programs in UTC, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import pytest

from beatline.cli.output import emit, operator, say

WHEN = datetime(2026, 11, 22, 4, 5, 6, 700_000, tzinfo=UTC)


class State(StrEnum):
    READY = "ready"


@dataclass(frozen=True)
class Row:
    name: str
    at: datetime | None
    runs: int


@pytest.fixture(autouse=True)
def shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place that is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_json_has_every_field_and_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "at": WHEN,
        "day": date(2026, 1, 2),
        "for": timedelta(minutes=1),
        "id": UUID(int=1),
        "n": Decimal("1.5"),
        "row": Row("a", None, 3),
        "state": State.READY,
        "tags": {"x"},
        "text": "气象",
        "yes": True,
    }
    emit([value], as_json=True, columns=["id"])
    out = capsys.readouterr().out
    assert json.loads(out) == [
        {
            "at": "2026-11-22T04:05:06.700000Z",
            "day": "2026-01-02",
            "for": 60.0,
            "id": "00000000-0000-0000-0000-000000000001",
            "n": "1.5",
            "row": {"name": "a", "at": None, "runs": 3},
            "state": "ready",
            "tags": ["x"],
            "text": "气象",
            "yes": True,
        }
    ]
    assert "气象" in out


def test_a_table_has_the_chosen_columns_in_local_time_on_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    emit([Row("a" * 200, WHEN, 3), Row("b", None, 20)], as_json=False, columns=["runs", "name", "at"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].split() == ["RUNS", "NAME", "AT"]
    assert lines[2].split() == ["3", "a" * 200, "2026-11-22", "12:05:06"]
    assert lines[3].split() == ["20", "b"]
    assert lines[3].startswith("   20"), "numbers stand right"


def test_one_thing_is_shown_field_by_field(capsys: pytest.CaptureFixture[str]) -> None:
    emit(Row("a", WHEN, 3), as_json=False)
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {name: value.strip() for name, value in shown.items()} == {
        "name": "a",
        "at": "2026-11-22 12:05:06",
        "runs": "3",
    }


def test_an_empty_list_is_said_on_stderr_and_is_empty_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit([], as_json=False, empty="No run yet.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "No run yet.\n")
    emit([], as_json=True)
    assert capsys.readouterr().out == "[]\n"


def test_data_cannot_command_the_terminal_or_the_markup(capsys: pytest.CaptureFixture[str]) -> None:
    emit([{"name": "\x1b[2J[red]x[/red] :smile:\x07\x9b"}], as_json=False)
    say("\x1b]0;title\x07done\nnext")
    captured = capsys.readouterr()
    assert "\\x1b[2J[red]x[/red] :smile:\\x07\\x9b" in captured.out
    assert captured.err == "\\x1b]0;title\\x07done\nnext\n"


def test_the_operator_is_a_user_on_a_host() -> None:
    user, _, host = operator().partition("@")
    assert user
    assert host
