"""How much processor time a measurement took, by whom, and how much others took meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

import psutil


def _busy_s() -> float:
    """Seconds that all processors together have been busy since the machine started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _used_s(pid: int) -> float:
    """Processor seconds of a process and its children, those that have ended included where their parent waited."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


class Meter:
    """Runs from its making; `pids` names the trees of processes that belong to the measurement."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._began_s = time.monotonic()
        self._busy_s = _busy_s()
        self._used_s = {name: _used_s(pid) for name, pid in self._pids.items()}

    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._began_s

    def used_s(self) -> dict[str, float]:
        """Processor seconds since it was made, by name."""
        return {name: _used_s(pid) - self._used_s[name] for name, pid in self._pids.items()}

    def others_share(self) -> float:
        """The share of all processors that processes not named took, from 0 to 1."""
        capacity_s = self.elapsed_s() * (psutil.cpu_count() or 1)
        others_s = _busy_s() - self._busy_s - sum(self.used_s().values())
        return max(0.0, others_s) / capacity_s if capacity_s else 0.0
