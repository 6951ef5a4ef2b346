"""What the file system must look like for imports to mean what they say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from support.sizes import ROOT

PACKAGES: Final = {"platform": "beatline", "tasks": "beatline_tasks", "beat": "beatline_beat"}
ABOVE: Final = re.compile(r"beatline_(tasks|beat)([.:][\w.:]*)?")


def _entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != "__pycache__")


@pytest.mark.parametrize("root", PACKAGES)
def test_a_source_root_holds_its_package_and_nothing_else(root: str) -> None:
    """An __init__.py in platform/ would shadow the standard library's module for `python -m` alone."""
    assert _entries(ROOT / root) == [PACKAGES[root]]


@pytest.mark.parametrize("root", PACKAGES)
def test_every_folder_of_a_package_with_modules_is_a_regular_package(root: str) -> None:
    folders = {path.parent for path in (ROOT / root).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_test_folders_are_no_packages() -> None:
    """tests/unit/platform/__init__.py would make `platform` a test package in every process that pytest starts."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_standard_library_is_not_shadowed_from_the_root() -> None:
    script = "import email, platform; print(platform.__file__); print(email.__file__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT / "platform") not in done.stdout
    assert len(done.stdout.splitlines()) == 2


def test_the_platform_reaches_its_tasks_and_its_clock_by_entry_points_alone() -> None:
    """import-linter sees imports; this sees the name of a module in a string that something imports later."""
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "platform").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ABOVE.fullmatch(node.value)
    ]
    assert not named
