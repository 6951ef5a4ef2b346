"""What is shown and kept of the children's output."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from beatline.embedded import console
from beatline.embedded.console import Console


def test_a_line_is_shown_behind_its_name_and_kept_in_a_file(tmp_path: Path) -> None:
    out = io.StringIO()
    shown = Console(tmp_path, out)

    shown.sink("beat")("tick")
    shown.close()

    assert out.getvalue() == "beat       | tick\n"
    assert (tmp_path / "beat.log").read_text() == "tick\n"


def test_quiet_keeps_lines_and_shows_none(tmp_path: Path) -> None:
    shown = Console(tmp_path, None)

    shown.say("hello")
    shown.close()

    assert (tmp_path / "up.log").read_text() == "hello\n"


def test_files_do_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FILE_BYTES", 1000)
    shown = Console(tmp_path, None)
    sink = shown.sink("chatty")

    for number in range(200):
        sink(f"line {number:04d} " + "x" * 50)
    shown.close()

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["chatty.log", "chatty.log.1", "chatty.log.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert "line 0199" in files[0].read_text()


def test_a_child_cannot_send_control_characters_to_the_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    shown = Console(tmp_path, out)

    shown.sink("beat")("\x1b[2Jgone")
    shown.close()

    assert "\x1b" not in out.getvalue()


def test_a_reader_that_went_away_stops_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    shown = Console(tmp_path, out)
    out.close()

    shown.sink("beat")("tick")
    shown.close()

    assert (tmp_path / "beat.log").read_text() == "tick\n"
