"""`beatline apply FILE`: the difference first, then all or nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

FILE = """
[sources.weather]
type = "http"
url = "https://example.com/weather"
format = "csv"
key = ["station", "date"]
auth = { type = "bearer", token = { env = "WEATHER_TOKEN" } }

[schedules.nightly]
task = "collect.execute_task"
cron = "0 2 * * *"
tz = "Asia/Shanghai"
args = ["weather"]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a source and its schedule."""
    monkeypatch.setenv("WEATHER_TOKEN", "hush")
    path = tmp_path / "beatline.toml"
    path.write_text(FILE)
    return path


class Terminal(io.StringIO):
    """An answer that a person types."""

    def isatty(self) -> bool:
        return True


def test_a_dry_run_shows_the_difference_and_writes_nothing(cli: Cli, file: Path) -> None:
    ran = cli("apply", str(file), "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "+ source weather"
    assert "    auth.token: ***" in ran.out
    assert '    key: ["station", "date"]' in ran.out
    assert "+ schedule nightly" in ran.out
    assert ran.err == "Nothing was written: 2 to add, 0 to change, 0 unchanged.\n"
    assert "hush" not in ran.out + ran.err
    assert cli("sources", "list", "--json").json == []


def test_applied_with_yes_once_and_then_nothing_is_left_to_do(cli: Cli, file: Path) -> None:
    assert cli("apply", str(file), "--yes").err == "Applied: 2 added, 0 changed, 0 unchanged.\n"
    again = cli("apply", str(file))
    assert (again.code, again.err) == (0, "Nothing to do: 2 unchanged.\n")
    assert again.out == "= source weather\n= schedule nightly\n"
    file.write_text(FILE.replace("/weather", "/climate").replace("0 2", "0 3"))
    ran = cli("apply", str(file), "--yes", "--json")
    assert ran.json["applied"] is True
    assert [(step["name"], step["action"]) for step in ran.json["steps"]] == [
        ("weather", "change"),
        ("nightly", "change"),
    ]
    assert ran.json["steps"][0]["changes"] == [
        {"field": "url", "before": "https://example.com/weather", "after": "https://example.com/climate"}
    ]
    [source] = cli("sources", "list", "--json").json
    assert (source["version"], source["owner"], source["spec"]["auth"]["token"]) == (2, "file", "***")


def test_a_changed_secret_is_seen_and_not_shown(cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("apply", str(file), "--yes")
    monkeypatch.setenv("WEATHER_TOKEN", "another")
    ran = cli("apply", str(file), "--dry-run")
    assert "    auth.token: *** → ***" in ran.out
    assert "another" not in ran.out


def test_without_a_terminal_it_asks_for_yes_and_with_one_for_a_word(
    cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "Give --yes" in cli("apply", str(file)).err
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert cli("apply", str(file)).code == 1
    assert cli("sources", "list", "--json").json == []
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert cli("apply", str(file)).code == 0
    assert len(cli("sources", "list", "--json").json) == 1


def test_a_wrong_file_changes_nothing_and_names_everything(cli: Cli, file: Path) -> None:
    file.write_text(FILE.replace('key = ["station", "date"]', "") + '[sources.other]\ntype = "ftp"\n')
    ran = cli("apply", str(file), "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert "Source 'weather': key: is required" in ran.err
    assert "Source 'other': " in ran.err
    assert cli("sources", "list", "--json").json == []
