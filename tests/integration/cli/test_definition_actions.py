"""Commands made of a kind's actions: arguments and options of its functions, findings as text, table and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.main import get_group

from beatline.cli.definitions import group_of
from beatline.settings import Settings
from support.gadgets import KIND
from support.processes import variables_of

Gadgets = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gadgets(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gadgets:
    """Type `gadgets …`: exit code, what was printed, what was remarked. Two gadgets stand."""
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)
    app = get_group(group_of(KIND))

    def type_(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main(list(words), prog_name="gadgets")
        code: Any = ended.value.code
        said = capsys.readouterr()
        return int(code or 0), said.out, said.err

    assert type_("add", "lamp", "--url", "x", "--colour", "blue")[0] == 0
    assert type_("add", "bulb", "--url", "y", "--labels", "on=lamp")[0] == 0
    return type_


def test_what_stands_behind_the_star_becomes_arguments_and_options(gadgets: Gadgets) -> None:
    code, out, _ = gadgets("poke-hard", "lamp", "left", "--times", "3", "-o", "there", "--softly", "--json")
    assert code == 0
    assert json.loads(out)["details"] == {
        "name": "lamp",
        "where": "left",
        "times": 3,
        "out": "there",
        "softly": True,
    }
    code, out, err = gadgets("poke-hard", "lamp")
    assert code == 2
    assert "WHERE" in err


def test_a_finding_that_is_not_ok_is_an_exit_code(gadgets: Gadgets) -> None:
    code, out, _ = gadgets("poke-hard", "lamp", "left", "--times", "10")
    assert code == 1
    assert "Poked lamp." in out


def test_the_fleet_is_asked_without_a_name_and_shows_a_table(gadgets: Gadgets) -> None:
    code, out, _ = gadgets("count")
    assert code == 0
    assert "lamp" in out
    assert "bulb" in out
    _, out, _ = gadgets("count", "--colour", "blue", "--json")
    assert [row["name"] for row in json.loads(out)["rows"]] == ["lamp"]


def test_help_says_what_a_function_says_of_itself(gadgets: Gadgets) -> None:
    _, out, _ = gadgets("poke-hard", "--help")
    assert "Poke one of them." in out
    assert "which side" in out
    assert "how often" in out
    assert "More than a line" not in out


def test_what_hangs_on_a_removed_one_goes_with_it(gadgets: Gadgets) -> None:
    assert gadgets("remove", "lamp", "--yes")[0] == 0
    _, out, _ = gadgets("list", "--json")
    assert json.loads(out) == []
