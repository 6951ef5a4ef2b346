"""Names that strangers gave their files: whatever they hold, what comes out can be shown and saved."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline.artifacts.naming import NAME_BYTES, safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("Übersicht 2026.xlsx", "Übersicht 2026.xlsx"),
        ("月报.xlsx", "月报.xlsx"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system32\\cmd.exe", "cmd.exe"),
        ("/etc/shadow", "shadow"),
        ("C:\\x\\y.txt", "y.txt"),
        ("C:y.txt", "C_y.txt"),
        ("a\x00b\r\nc.txt", "abc.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("zero\u200bwidth.txt", "zerowidth.txt"),
        ("half \ud83d.txt", "half .txt"),
        ("line\u2028break.txt", "linebreak.txt"),
        ("  spaced \t out  .txt  ", "spaced out .txt"),
        (".bashrc", "bashrc"),
        ("...", "file"),
        ("", "file"),
        ("folder/", "file"),
        ("a.txt...", "a.txt"),
        ("NUL", "_NUL"),
        ("con.txt", "_con.txt"),
        ("Com1.tar.gz", "_Com1.tar.gz"),
        ("console.log", "console.log"),
        ('a<b>:"c|d?e*.txt', "a_b___c_d_e_.txt"),
        ("e\u0301.txt", "é.txt"),
    ],
)
def test_tricks_in_a_name_are_gone(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_a_long_name_keeps_its_extension_and_breaks_no_character() -> None:
    safe = safe_name("月" * 300 + ".xlsx")
    assert safe.endswith("月.xlsx")
    assert NAME_BYTES - 2 <= len(safe.encode()) <= NAME_BYTES
    assert safe_name("x." + "y" * 300) == "x." + "y" * (NAME_BYTES - 2)


def test_the_fallback_can_be_chosen() -> None:
    assert safe_name("\x00", fallback="attachment") == "attachment"


@given(st.text(max_size=400))
def test_whatever_it_holds_it_can_be_saved_beside_others(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= NAME_BYTES
    assert Path("/folder", safe).parent == Path("/folder")
    assert safe not in (".", "..")
    assert not any(unicodedata.category(char).startswith("C") and char.isprintable() for char in safe)
    assert safe_name(safe) == safe
