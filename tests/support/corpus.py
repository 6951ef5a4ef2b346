"""Hostile mail of more than sixty kinds, made by code. `python -m support.corpus FOLDER` writes it as .eml files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from support import corpus_headers, corpus_names, corpus_parts
from support.corpus_writing import Kind, Outcome

KINDS: Final = (*corpus_headers.KINDS, *corpus_parts.KINDS, *corpus_names.KINDS)

__all__ = ["KINDS", "Kind", "Outcome"]


def main(folder: Path) -> None:
    """Write every message of every kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(KINDS, 1):
        for copy, raw in enumerate(kind.make(), 1):
            (folder / f"{number:02}-{copy:02}.eml").write_bytes(raw)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
