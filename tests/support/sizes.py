"""Finds files and functions that have grown too long to be read at once. There is no list of exemptions."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
FOLDERS: Final = ("platform", "tasks", "beat", "tests", "deploy", "requirements")
SOURCES: Final = ("*.py", "*.lua", "*.sh", "*.sql")

FILE_LINES: Final = 400
FUNCTION_LINES: Final = 60


def too_long(text: str, name: str) -> Iterator[str]:
    """One sentence for a file, and one for each of its functions, over the limit."""
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield f"{name}: {lines} lines, {FILE_LINES} are allowed; split it by what it is about"
    if not name.endswith(".py"):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, {FUNCTION_LINES} are allowed"


def sources(root: Path) -> Iterator[Path]:
    """Every source file of the repository."""
    for folder in FOLDERS:
        for pattern in SOURCES:
            yield from sorted((root / folder).rglob(pattern))


def main() -> int:
    """Print what is too long; exit code 1 if anything is."""
    found = [line for path in sources(ROOT) for line in too_long(path.read_text("utf-8"), str(path.relative_to(ROOT)))]
    sys.stdout.write("".join(f"{line}\n" for line in found) or "Sizes: every file and function is short enough.\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
