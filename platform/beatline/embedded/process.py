"""A child process that does not outlive us, with its output read line by line and its last lines kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from beatline.clock import monotonic_s
from beatline.errors import ServiceError

TETHER: Final = Path(__file__).with_name("tether.py")
KEPT_LINES: Final = 60
LINE_BYTES: Final = 16 * 1024

LineSink = Callable[[str], None]
DeathSignal = Literal["KILL", "TERM", "INT"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. Passwords go into `env`, never into `argv`, which every user of the machine can list.

    `death_signal` is what it gets if we end without ending it; `identity` is the tether's `--as`, for root only;
    `inherit` are descriptors that it keeps open.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    death_signal: DeathSignal
    identity: str | None = None
    inherit: tuple[int, ...] = ()
    cwd: Path | None = None
    watched: bool = sys.platform != "linux"


class Process:
    """A command that runs in a session of its own until it ends, is ended, or we end."""

    def __init__(self, command: Command, on_line: LineSink | None = None) -> None:
        """Start it. Raises ServiceError if the system refuses.

        RuntimeError outside the main thread: the kernel ties the child's life to the thread that starts it.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a tethered process must be started from the main thread")
        try:
            self._popen = subprocess.Popen(  # noqa: S603  # what our own modules name
                tethered(command),
                stdin=subprocess.PIPE if command.watched else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(command.env),
                cwd=command.cwd,
                pass_fds=command.inherit,
                start_new_session=True,
            )
        except OSError as exc:
            raise ServiceError(f"{Path(command.argv[0]).name} could not be started: {exc.strerror}.") from exc
        self.since_s = monotonic_s()
        self._killed = False
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, name=f"output of {self._popen.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id; where the tether stays as a watcher, the watcher's."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self._popen.poll()

    def last_lines(self) -> list[str]:
        """The end of what it printed, complete once it has ended."""
        if self._popen.poll() is not None:
            self._reader.join(1.0)  # bounded: a grandchild may hold the pipe
        return list(self._kept)

    def send(self, signum: signal.Signals) -> None:
        """Signal the process alone; nothing happens if it has ended."""
        self._popen.send_signal(signum)

    def kill(self) -> None:
        """SIGKILL to the process and what it started in its session."""
        if self._killed:
            return  # its number may be another's by now
        self._killed = True
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, signum: signal.Signals, timeout_s: float) -> None:
        """Ask it to end, and kill it if it has not in time."""
        self.send(signum)
        self.wait(timeout_s)
        self.kill()

    def close(self) -> None:
        """Let go of its pipes; only once it has ended."""
        self._reader.join(1.0)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None and not self._reader.is_alive():
                pipe.close()

    def _read(self) -> None:
        stream = self._popen.stdout
        if stream is None:
            return
        while raw := stream.readline(LINE_BYTES):
            line = raw.decode("utf-8", "replace").rstrip()
            self._kept.append(line)
            if self._on_line is not None:
                self._on_line(line)


def tethered(command: Command) -> list[str]:
    """The command line that runs a command tethered to this process."""
    options = ["--parent", str(os.getpid()), "--death-signal", command.death_signal]
    if command.identity is not None:
        options += ["--as", command.identity]
    if command.watched:
        options += ["--watch"]
    return [sys.executable, "-I", "-S", str(TETHER), *options, "--", *command.argv]
