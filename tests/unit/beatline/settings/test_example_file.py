"""deploy/env/.env.example is written from the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from beatline.settings import Settings
from beatline.settings_report import example_file
from beatline.settings_sources import variable_of

EXAMPLE = Path(__file__).parents[4] / "deploy" / "env" / ".env.example"


def test_the_file_is_what_the_model_says() -> None:
    written = "".join(f"{line}\n" for line in example_file(Settings.model_fields))
    assert EXAMPLE.read_text() == written, "write it anew: beatline settings --example > deploy/env/.env.example"


def test_every_setting_is_described_and_the_file_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    lines = EXAMPLE.read_text().splitlines()
    uncommented = [line[1:] if line.startswith("#BEATLINE_") else line for line in lines]
    (tmp_path / ".env").write_text("\n".join(uncommented))
    settings = Settings.load()
    assert settings.model_fields_set == set(Settings.model_fields)
    assert settings.strangers() == ()
    assert {row.origin for row in settings.shown()} == {f"{variable_of(name)} (.env)" for name in Settings.model_fields}
