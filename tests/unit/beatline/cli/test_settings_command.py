"""`beatline settings` shows what is in force and where it comes from, and no secret."""

from __future__ import annotations

import json

import pytest

from beatline.cli import root


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        root.run(["settings", *args])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_json_has_value_and_origin_of_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_HOST", "cache")
    monkeypatch.setenv("REDIS_PASSWORD", "hush")
    assert run("--json") == 0
    out = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["redis_url"] == {
        "name": "redis_url",
        "variable": "BEATLINE_REDIS_URL",
        "value": "redis://:***@cache:6379/0",
        "origin": "REDIS_HOST, REDIS_PASSWORD (environment)",
    }
    assert rows["database_url"]["origin"] == "not set"
    assert rows["lease_s"] == {"name": "lease_s", "variable": "BEATLINE_LEASE_S", "value": "20", "origin": "default"}
    assert "hush" not in out


def test_a_misspelt_variable_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BEATLINE_REDIS_ULR", "redis://h/0")
    assert run() == 0
    captured = capsys.readouterr()
    assert "BEATLINE_REDIS_ULR (environment) is no setting of Beatline: BEATLINE_REDIS_URL?" in captured.err
    assert "BEATLINE_REDIS_URL" in captured.out


def test_wrong_settings_are_listed_and_end_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BEATLINE_LEASE_S", "long")
    monkeypatch.setenv("BEATLINE_LOG_LEVEL", "loud")
    assert run() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.partition(":")[0] for line in captured.err.splitlines()] == [
        "BEATLINE_LEASE_S",
        "BEATLINE_LOG_LEVEL",
    ]


def test_a_new_key_is_one_that_the_setting_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--new-key") == 0
    first = capsys.readouterr().out.strip()
    assert run("--new-key") == 0
    assert capsys.readouterr().out.strip() != first
    monkeypatch.setenv("BEATLINE_SECRET_KEYS", first)
    assert run() == 0
