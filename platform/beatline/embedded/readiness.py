"""How a child tells the supervisor that it is ready: a file in `<home>/ready` that bears its name."""

from __future__ import annotations

from pathlib import Path


def announce(home: Path, name: str) -> None:
    """Say that the process of this name is ready."""
    _mark(home, name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _mark(home, name).touch()  # empty: there is room for it on a full disk


def forget(home: Path, name: str) -> None:
    """Take back what an earlier process of this name said."""
    _mark(home, name).unlink(missing_ok=True)


def has_announced(home: Path, name: str) -> bool:
    """Whether the process of this name said that it is ready since forget()."""
    return _mark(home, name).exists()


def _mark(home: Path, name: str) -> Path:
    return home / "ready" / name
