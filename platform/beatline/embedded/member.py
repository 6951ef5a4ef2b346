"""One thing that the supervisor keeps running, and what has become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from beatline.clock import monotonic_s
from beatline.embedded.process import LineSink, Process
from beatline.embedded.runfile import ProcessEntry, State
from beatline.embedded.service import Runnable
from beatline.embedded.table import started
from beatline.errors import ServiceError

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
WELL_AFTER_S: Final = 30.0


class Log(Protocol):
    """Where a member's lines go, and what the supervisor says of it."""

    def sink(self, name: str) -> LineSink: ...
    def say(self, text: str) -> None: ...


def pause_s(failures: int) -> float:
    """How long to wait before the next start, after so many failures in a row."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 16))


@dataclass(slots=True)
class Member:
    """A runnable, its process, and when to start it again. Failures in a row are forgotten after a healthy time."""

    runnable: Runnable
    log: Log
    process: Process | None = None
    state: State = "starting"
    began: float | None = None
    failures: int = 0
    again_at_s: float = 0.0
    ready_since_s: float = 0.0

    @property
    def name(self) -> str:
        """As people and log files call it."""
        return self.runnable.name

    def spawn(self) -> Process:
        """Start it, without waiting. Raises ServiceError if it cannot be."""
        self.process = process = self.runnable.spawn(self.log.sink(self.name))
        self.began = started(process.pid)
        self.state = "starting"
        return process

    def look(self) -> bool:
        """Notice what has become of it, and start it again when its pause is over; True if its state changed."""
        before = (self.state, self.process.pid if self.process else None)
        now = monotonic_s()
        if self.process is None:
            if now >= self.again_at_s:
                self._start_again()
        elif self.process.exit_code() is not None:
            self._fail(self.runnable.why_it_ended(self.process))
        elif self.state == "starting":
            self._see_whether_ready(self.process, now)
        elif now - self.ready_since_s > WELL_AFTER_S:
            self.failures = 0
        return before != (self.state, self.process.pid if self.process else None)

    def became_ready(self) -> None:
        """Note that it does its duty."""
        self.state = "ready"
        self.ready_since_s = monotonic_s()

    def entry(self) -> ProcessEntry:
        """Its line in the run file."""
        pid = self.process.pid if self.process else None
        return ProcessEntry(
            name=self.name,
            kind=self.runnable.kind,
            what=self.runnable.what,
            pid=pid,
            started=self.began if pid else None,
            state=self.state,
        )

    def _see_whether_ready(self, process: Process, now: float) -> None:
        try:
            if self.runnable.is_ready(process):
                self.became_ready()
            elif now - process.since_s > self.runnable.ready_within_s:
                self._fail(f"{self.name} did not become ready within {self.runnable.ready_within_s:.0f} s")
        except ServiceError as exc:
            self._fail(str(exc))

    def _start_again(self) -> None:
        try:
            self.spawn()
        except ServiceError as exc:
            self._fail(str(exc))

    def _fail(self, why: str) -> None:
        if self.process is not None:
            self.process.kill()  # and what it left in its session
            self.process.close()
            self.process = None
        wait_s = pause_s(self.failures)
        self.failures += 1
        self.again_at_s = monotonic_s() + wait_s
        self.state = "restarting"
        self.log.say(f"{why.rstrip('.')}. Starting it again in {wait_s:.1f} s.")
