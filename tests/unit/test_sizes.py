"""`make check` runs sizes.py; here it is seen to find what it looks for."""

from __future__ import annotations

from support import sizes


def _function(lines: int) -> str:
    return "def long():\n" + "    pass\n" * (lines - 1)


def test_a_file_at_the_limit_passes_and_one_line_more_does_not() -> None:
    assert not list(sizes.too_long("x = 1\n" * sizes.FILE_LINES, "a.py"))
    assert list(sizes.too_long("x = 1\n" * (sizes.FILE_LINES + 1), "a.lua")) == [
        "a.lua: 401 lines, 400 are allowed; split it by what it is about"
    ]


def test_a_function_at_the_limit_passes_and_one_line_more_does_not() -> None:
    assert not list(sizes.too_long(_function(sizes.FUNCTION_LINES), "a.py"))
    assert list(sizes.too_long(_function(sizes.FUNCTION_LINES + 1), "a.py")) == [
        "a.py:1: long has 61 lines, 60 are allowed"
    ]


def test_every_source_root_is_read() -> None:
    read = {path.relative_to(sizes.ROOT).parts[0] for path in sizes.sources(sizes.ROOT)}
    assert {"platform", "tasks", "beat", "tests"} <= read
