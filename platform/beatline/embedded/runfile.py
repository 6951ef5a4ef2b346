"""What a running `beatline up` tells the other commands: `<home>/run.json`, readable by its owner only.

The file counts while the lock on `<home>/up.lock` is held, which the kernel ends with the process: a file that a killed
`up` left behind, or a process id that was given out again, deceives nobody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from beatline.embedded.folderlock import FolderLock, is_held
from beatline.errors import ServiceError

VERSION: Final = 1
LOCK_WAIT_S: Final = 1.0

State = Literal["starting", "ready", "restarting", "given"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEntry:
    """One process of a running `up`. `started` is psutil's create_time, which tells a reused process id apart."""

    name: str
    kind: str
    what: str
    pid: int | None
    started: float | None
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningUp:
    """A `beatline up` on a data folder, and how to reach what it runs. The URLs hold passwords."""

    pid: int
    redis_url: str
    database_url: str
    flower_url: str | None
    api_url: str | None = None
    processes: tuple[ProcessEntry, ...] = ()

    def __repr__(self) -> str:
        return f"RunningUp(pid={self.pid}, processes={len(self.processes)})"


def find_running(home: Path) -> RunningUp | None:
    """The `beatline up` that runs on this folder, or None. Cheap enough for every command to ask."""
    if not is_held(_lock(home)):
        return None
    try:
        return _read(json.loads((home / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is only just starting, or of another version


def publish(home: Path, running: RunningUp) -> None:
    """Replace run.json, in one step, so that a reader sees the old or the new."""
    text = json.dumps({"version": VERSION, **asdict(running)}, indent=1)
    write_private(home / "run.json", text)


def withdraw(home: Path) -> None:
    """Take run.json away."""
    with suppress(OSError):
        (home / "run.json").unlink()


def hold(home: Path) -> FolderLock:
    """The lock that makes this process the only `up` on the folder. Raises ServiceError naming the one that has it."""
    lock = FolderLock(_lock(home))
    if not lock.acquire(LOCK_WAIT_S):
        pid = _holder(home)
        raise ServiceError(
            f"A `beatline up`{f' (process {pid})' if pid else ''} already runs on {home}: "
            f"stop it with Ctrl-C{f' or `kill {pid}`' if pid else ''}, or give this one another folder in BEATLINE_HOME."
        )
    os.ftruncate(lock.fd, 0)
    os.pwrite(lock.fd, f"{os.getpid()}\n".encode(), 0)
    return lock


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        draft.unlink()
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def _lock(home: Path) -> Path:
    return home / "up.lock"


def _holder(home: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(_lock(home).read_text(encoding="ascii"))
    return None


def _read(raw: Mapping[str, Any]) -> RunningUp:
    if raw["version"] != VERSION:
        raise ValueError("written by another version")
    fields = {name: raw[name] for name in ("pid", "redis_url", "database_url", "flower_url")}
    return RunningUp(
        **fields, api_url=raw.get("api_url"), processes=tuple(ProcessEntry(**one) for one in raw["processes"])
    )
