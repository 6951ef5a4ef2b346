"""What runs where, with its memory: the table of `beatline up` and `beatline status`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import psutil

from beatline.embedded.runfile import ProcessEntry

MEBIBYTE: Final = 1024 * 1024
COLUMNS: Final = ("name", "kind", "what", "pid", "memory_mb", "state")
SUPERVISOR: Final = "supervisor"
_SAME_START_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """One process, or a server that is configured and none of ours (no pid).

    Memory is the process's and its children's: PSS, which counts a shared page once, or RSS where there is no PSS.
    """

    name: str
    kind: str
    what: str
    pid: int | None
    memory_mb: float | None
    state: str


def rows(processes: Iterable[ProcessEntry]) -> list[Row]:
    """The table as things are now: a process that is no longer there is *down*."""
    return [_row(entry) for entry in processes]


def all_well(table: Sequence[Row]) -> bool:
    """Whether everything in the table does its duty."""
    return all(row.state in ("ready", "given") for row in table)


def total_mb(table: Sequence[Row]) -> float:
    """What all of it takes."""
    return sum(row.memory_mb or 0 for row in table)


def memory_mb(process: psutil.Process, *, alone: bool) -> float:
    """What a process takes, alone or with its children."""
    children = [] if alone else process.children(recursive=True)
    return sum(_own_memory(one) for one in (process, *children)) / MEBIBYTE


def started(pid: int) -> float | None:
    """When a process began; None if it is gone."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _row(entry: ProcessEntry) -> Row:
    if entry.pid is None:
        return Row(entry.name, entry.kind, entry.what, None, None, entry.state)
    try:
        process = psutil.Process(entry.pid)
        same = entry.started is None or abs(process.create_time() - entry.started) < _SAME_START_S
        if same and process.status() != psutil.STATUS_ZOMBIE:
            # The supervisor's children stand in rows of their own.
            memory = round(memory_mb(process, alone=entry.kind == SUPERVISOR), 1)
            return Row(entry.name, entry.kind, entry.what, entry.pid, memory, entry.state)
    except psutil.Error:
        pass
    return Row(entry.name, entry.kind, entry.what, entry.pid, None, "down")


def _own_memory(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
