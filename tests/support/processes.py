"""Real processes of the platform: started, watched through their log file, and ended by process id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import psutil
from pydantic import SecretStr

from support.nursery import Child, raised_child
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings

READY_S: Final = 30.0
END_S: Final = 15.0
SHOWN_CHARS: Final = 6000


class Spawned:
    """A process that leads its own group; everything it prints stands in `log`."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes] | Child, log: Path) -> None:
        self.name, self.log = name, log
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self._popen.poll()

    def output(self) -> str:
        """What it has printed so far, both streams."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout_s: float = READY_S) -> re.Match[str]:
        """The first match of a regular expression in the output. Fails at once if the process has ended."""

        def seen() -> re.Match[str] | None:
            ended = self.exit_code is not None
            found = re.search(pattern, self.output())
            if found is None and ended:
                raise RuntimeError(f"{self.name} ended with {self.exit_code} before it printed {pattern!r}")
            return found

        found = wait_until(seen, timeout_s, what=f"{self.name} prints {pattern!r}")
        assert found is not None
        return found

    def wait(self, timeout_s: float = END_S) -> int:
        """The exit code, once it has ended."""
        return self._popen.wait(timeout_s)

    def send(self, signum: signal.Signals) -> None:
        """Signal the process alone, not its children."""
        self._popen.send_signal(signum)

    def stop(self, timeout_s: float = END_S) -> int:
        """Ask it to end with SIGTERM, wait, and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    def resident_mb(self) -> float:
        """What it and its children hold of the memory. A page that several share counts for each: so it does not matter
        who else shares it, and for how long."""
        process = psutil.Process(self.pid)
        held = sum(int(one.memory_info().rss) for one in (process, *process.children(recursive=True)))
        return held / 2**20

    def lose_connections(self, client: Any, command: str) -> int:
        """Have the server close what this process has open and last used for `command`; how many those were."""
        ours = {
            f"{one.laddr.ip}:{one.laddr.port}" for one in psutil.Process(self.pid).net_connections("tcp") if one.laddr
        }
        lost = [one["id"] for one in client.client_list() if one["addr"] in ours and one["cmd"] == command]
        return sum(int(client.client_kill_filter(_id=one)) for one in lost)

    def kill(self) -> None:
        """SIGKILL to the process and every child in its group, as the kernel's OOM killer or a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(END_S)


class Spawner:
    """Starts processes against one installation and ends all of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spawned: list[Spawned] = []

    def spawn(
        self,
        *argv: str,
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
        python: str = sys.executable,
        forks: bool = False,
    ) -> Spawned:
        """Run `python -m ARGV…`, with the settings as environment variables; with `forks`, from a nursery if it can be."""
        label = f"{len(self._spawned) + 1}-{name or argv[0]}"
        log = self._folder / f"{label}.log"
        variables = {**os.environ, **(variables_of(settings) if settings else {}), **(env or {})}
        with log.open("wb") as stream:
            child = raised_child(argv, variables, cwd or self._folder, stream.fileno()) if forks else None
            popen = child or subprocess.Popen(
                [python, "-m", *argv],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                cwd=cwd or self._folder, env=variables, start_new_session=True,
            )  # fmt: skip
        spawned = Spawned(label, popen, log)
        self._spawned.append(spawned)
        return spawned

    def logs(self) -> Sequence[tuple[str, str]]:
        """Each process's name with its exit code, and the end of what it printed."""
        return [
            (f"{one.name} (pid {one.pid}, exit code {one.exit_code})", one.output()[-SHOWN_CHARS:])
            for one in self._spawned
        ]

    def end(self) -> None:
        """Kill every process that still runs, with its group, the newest first.

        A test that cares how a process ends asks it to end; waiting for the others would be a third of all time.
        """
        for one in reversed(self._spawned):
            one.kill()  # also children that outlived their parent: they are still in its group


def variables_of(settings: Settings) -> dict[str, str]:
    """The settings that were given explicitly, as a process reads them."""
    variables: dict[str, str] = {}
    for field in settings.model_fields_set:
        value: object = getattr(settings, field)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
        elif isinstance(value, tuple):
            text = ",".join(str(part) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # tuple[Unknown]
        else:
            text = str(value)
        variables[f"BEATLINE_{field.upper()}"] = text
    return variables


class Spawn(Protocol):
    """Run `python -m ARGV…` against this test's installation, or against `settings`."""

    def __call__(
        self,
        *argv: str,
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> Spawned: ...


class StartWorker(Protocol):
    """A worker on the queues named, ready to take work. `arguments` go to `celery worker` as they are."""

    def __call__(
        self,
        *queues: str,
        pool: str = "prefork",
        concurrency: int = 1,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        ready: bool = True,
    ) -> Spawned: ...


class StartProcess(Protocol):
    """Beat or a recorder, past its start."""

    def __call__(
        self, *arguments: str, settings: Settings | None = None, env: Mapping[str, str] | None = None
    ) -> Spawned: ...
