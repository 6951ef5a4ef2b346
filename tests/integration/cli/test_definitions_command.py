"""`beatline sources …` on a real database and a real file: what a person types, and what they read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beatline.definitions import Definition, store
from beatline.installation import Installation
from beatline.schedules import store as schedule_store
from beatline.schedules.model import read_spec

Cli = Callable[..., Any]

ROWS = "station,date,temp\nSEA,2012-01-01,4.5\nSEA,2012-01-02,5.5\n"
ADD = ("--type", "file", "--format", "csv", "--key", "station,date", "--columns", "date=date")


@pytest.fixture
def weather(tmp_path: Path, cli: Cli) -> Path:
    """The file of a source named weather."""
    path = tmp_path / "weather.csv"
    path.write_text(ROWS)
    assert cli("sources", "add", "weather", *ADD, "--path", str(path)).code == 0
    return path


def read(installation: Installation, name: str = "weather") -> Definition:
    with installation.engine.connect() as conn:
        return store.get(conn, "source", name)


def test_options_become_the_spec(cli: Cli, weather: Path, installation: Installation) -> None:
    assert read(installation).spec == {
        "type": "file",
        "path": str(weather),
        "format": "csv",
        "key": ["station", "date"],
        "columns": {"date": "date"},
    }
    assert cli("sources", "list", "--json").json == [cli("sources", "show", "weather", "--json").json]
    shown = cli("sources", "show", "weather").out
    assert "spec.columns.date" in shown
    assert '["station", "date"]' in shown


def test_check_reads_for_real_and_decides_the_exit_code(cli: Cli, weather: Path) -> None:
    good = cli("sources", "check", "weather", "--json")
    assert (good.code, good.json["ok"], good.json["details"]["rows"]) == (0, True, 2)
    weather.unlink()
    bad = cli("sources", "check", "weather")
    assert bad.code == 1
    assert str(weather) in bad.out
    assert "Traceback" not in bad.out + bad.err
    assert cli("sources", "preview", "weather").code == 1


def test_everything_wrong_is_told_before_a_database_is_needed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEATLINE_DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/none")
    wrong = cli("sources", "add", "w", "--type", "http", "--format", "xml", "--max-pages", "0", "--url", "ftp://h/")
    assert (wrong.code, wrong.out) == (1, "")
    for said in ("Source 'w': ", "url: must be an address", "format: must be 'json'", "key: is required", "max_pages:"):
        assert said in wrong.err
    down = cli("sources", "list")
    assert down.code == 1
    assert "127.0.0.1:1/none" in down.err
    assert "hush" not in down.err
    assert len(down.err.splitlines()) == 1


def test_a_secret_comes_by_reference_and_is_never_shown(
    cli: Cli, installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "hush")
    (tmp_path / "token").write_text("hush2\n")
    base = ("--type", "http", "--url", "https://h/", "--format", "json", "--key", "id", "--auth.type", "bearer")
    assert "history" in cli("sources", "add", "api", *base, "--auth.token", "hush").err
    assert "NOBODY is not set" in cli("sources", "add", "api", *base, "--auth.token", "env:NOBODY").err
    assert cli("sources", "add", "api", *base, "--auth.token", "env:API_TOKEN").code == 0
    assert _token(installation) == "hush"
    assert cli("sources", "set", "api", "--auth.token", f"file:{tmp_path / 'token'}").code == 0
    assert _token(installation) == "hush2"
    monkeypatch.setattr("sys.stdin", io.StringIO("hush3\n"))
    assert cli("sources", "set", "api", "--auth.token", "-").code == 0
    assert _token(installation) == "hush3"
    for shown in (cli("sources", "show", "api"), cli("sources", "show", "api", "--json"), cli("sources", "list")):
        assert "hush" not in shown.out + shown.err
    assert cli("sources", "show", "api", "--json").json["spec"]["auth"]["token"] == "***"


def _token(installation: Installation) -> str:
    from beatline.definitions.specs import unseal

    return unseal(read(installation, "api"), lambda: installation.keyring)["auth", "token"]


def test_set_changes_some_fields_and_keeps_the_rest(cli: Cli, weather: Path, installation: Installation) -> None:
    assert cli("sources", "set", "weather", "--dataset", "seattle", "--set", 'timeouts={"read_s": 5}').code == 0
    changed = read(installation)
    assert (changed.version, changed.spec["dataset"], changed.spec["timeouts"]) == (2, "seattle", {"read_s": 5.0})
    assert cli("sources", "set", "weather", "--unset", "dataset", "--etag", "no").code == 0
    assert "dataset" not in read(installation).spec
    assert read(installation).spec["etag"] is False
    assert "Nothing changed" in cli("sources", "set", "weather", "--etag", "no").err
    assert "dataset: is not set" in cli("sources", "set", "weather", "--unset", "dataset").err
    assert "sparkle: is no field of it" in cli("sources", "set", "weather", "--set", "sparkle=1").err
    assert read(installation).version == 3


def test_a_whole_spec_comes_from_a_file(cli: Cli, installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text('type = "file"\npath = "a.csv"\nformat = "csv"\nkey = ["id"]\n')
    (tmp_path / "w.json").write_text('{"path": "b.csv"}')
    assert cli("sources", "add", "w", "--spec", str(tmp_path / "w.toml"), "--dataset", "d").code == 0
    assert cli("sources", "set", "w", "--spec", str(tmp_path / "w.json")).code == 0
    assert (read(installation, "w").spec["path"], read(installation, "w").spec["dataset"]) == ("b.csv", "d")
    (tmp_path / "w.json").write_text("[1]")
    assert "holds no object" in cli("sources", "set", "w", "--spec", str(tmp_path / "w.json")).err
    (tmp_path / "w.json").write_text("{")
    assert "is not JSON" in cli("sources", "set", "w", "--spec", str(tmp_path / "w.json")).err
    assert "cannot be read" in cli("sources", "set", "w", "--spec", str(tmp_path / "absent")).err


def test_what_is_parked_says_so_and_can_be_unparked(cli: Cli, weather: Path, installation: Installation) -> None:
    with installation.engine.begin() as conn:
        store.park(conn, read(installation), "its key is gone.", who="worker")
    assert "parked: its key is gone." in cli("sources", "list").out
    assert "runs again" in cli("sources", "unpark", "weather").err
    assert "was not parked" in cli("sources", "unpark", "weather").err
    assert read(installation).parked is None


def test_remove_asks_and_names_the_schedules_that_need_it(
    cli: Cli, weather: Path, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_spec("nightly", {"task": "collect.execute_task", "cron": "0 2 * * *", "args": ["weather"]})
    with installation.engine.begin() as conn:
        schedule_store.add(conn, spec, who="test")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    refused = cli("sources", "remove", "weather")
    assert refused.code == 1
    assert "Scheduled by nightly" in refused.err
    removed = cli("sources", "remove", "weather", "--yes")
    assert removed.code == 0
    assert "its runs will fail: `beatline schedules remove nightly` ends them" in removed.err
    assert cli("sources", "list", "--json").json == []
    again = cli("sources", "remove", "weather", "--yes")
    assert (again.code, again.err) == (1, "There is no source 'weather'.\n")
