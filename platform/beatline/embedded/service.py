"""What the supervisor asks of everything it runs, and how a server is started and waited for."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from beatline.clock import monotonic_s
from beatline.embedded.process import LineSink, Process
from beatline.errors import ServiceError

POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class StopStep:
    """A signal, and how long to wait for it to work before the next."""

    signum: signal.Signals
    wait_s: float


class Runnable(Protocol):
    """Something that runs as one process: a server, Beat, a worker, the recorder, Flower."""

    @property
    def name(self) -> str:
        """How people and log files call it."""
        ...

    @property
    def kind(self) -> str:
        """redis, postgres, beat, worker, recorder, flower or api."""
        ...

    @property
    def what(self) -> str:
        """Its URL or its queues, for people: without a password."""
        ...

    @property
    def ready_within_s(self) -> float:
        """How long it may take to become ready."""
        ...

    @property
    def stop_steps(self) -> Sequence[StopStep]:
        """How to end it; what is left after them is killed."""
        ...

    def spawn(self, on_line: LineSink | None = None) -> Process:
        """Start it, without waiting. Raises ServiceError if it cannot be."""
        ...

    def is_ready(self, process: Process) -> bool:
        """Whether it does its duty now; never blocks for more than a moment."""
        ...

    def why_it_ended(self, process: Process) -> str:
        """One sentence for people on a process that ended when it should not have."""
        ...


def start(runnable: Runnable, on_line: LineSink | None = None) -> Process:
    """Start and wait until it is ready. Raises ServiceError, and leaves nothing running, if it does not get there."""
    process = runnable.spawn(on_line)
    try:
        wait_ready(runnable, process)
    except BaseException:
        process.kill()
        process.close()
        raise
    return process


def _sleep() -> None:
    time.sleep(POLL_S)


def wait_ready(runnable: Runnable, process: Process, pause: Callable[[], None] = _sleep) -> None:
    """Wait until it is ready, pausing between looks. Raises ServiceError if it ends before or takes too long."""
    give_up = process.since_s + runnable.ready_within_s
    while not runnable.is_ready(process):
        if process.exit_code() is not None:
            raise ServiceError(runnable.why_it_ended(process))
        if monotonic_s() > give_up:
            said = f" Its last words: {last_words(process)}" if process.last_lines() else ""
            raise ServiceError(f"{runnable.name} did not become ready within {runnable.ready_within_s:.0f} s.{said}")
        pause()


def stop(running: Iterable[tuple[Runnable, Process]]) -> None:
    """End processes side by side, asking each first; nothing of them is left."""
    pending = [_Stop(process, iter(runnable.stop_steps)) for runnable, process in running]
    for one in pending:
        one.ask()
    while pending := [one for one in pending if not one.is_over()]:
        time.sleep(POLL_S)


class _Stop:
    """The end of one process: signal after signal, each with its time, then a kill."""

    def __init__(self, process: Process, steps: Iterator[StopStep]) -> None:
        self._process = process
        self._steps = steps
        self._until_s = 0.0

    def ask(self) -> bool:
        """Send the next signal; False if there is none left."""
        step = next(self._steps, None)
        if step is None:
            return False
        self._process.send(step.signum)
        self._until_s = monotonic_s() + step.wait_s
        return True

    def is_over(self) -> bool:
        """Whether nothing of it is left."""
        if self._process.exit_code() is None and (monotonic_s() < self._until_s or self.ask()):
            return False
        self._process.kill()  # also what it left behind in its session
        self._process.close()
        return True


def how_it_ended(process: Process) -> str:
    """What to say behind the name of a process that is no more."""
    code = process.exit_code()
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}"
    return f"ended with exit code {code}: {last_words(process) or 'without a word'}"


def last_words(process: Process, lines: int = 3) -> str:
    """The end of what a process printed, on one line."""
    return " | ".join(line for line in process.last_lines()[-lines:] if line)
