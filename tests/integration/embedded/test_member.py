"""A member that dies is started again, after pauses that grow."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from beatline.embedded import member as members
from beatline.embedded import service
from beatline.embedded.member import Member
from beatline.embedded.process import Command, LineSink, Process
from beatline.embedded.service import StopStep
from beatline.errors import ServiceError
from support.waiting import wait_until


@dataclass
class Script:
    """A Python script as a runnable; ready when it has printed *ready*."""

    script: str
    name: str = "script"
    kind: str = "worker"
    what: str = "nothing"
    ready_within_s: float = 20.0
    stop_steps: Sequence[StopStep] = (StopStep(signal.SIGTERM, 0.3), StopStep(signal.SIGQUIT, 0.3))
    refuses: bool = False

    def spawn(self, on_line: LineSink | None = None) -> Process:
        if self.refuses:
            raise ServiceError("It is refused.")
        return Process(Command(argv=[sys.executable, "-c", self.script], env={}, death_signal="KILL"), on_line)

    def is_ready(self, process: Process) -> bool:
        return "ready" in process.last_lines()

    def why_it_ended(self, process: Process) -> str:
        return f"{self.name} {service.how_it_ended(process)}"


@dataclass
class Said:
    """Keeps what the supervisor would have shown."""

    lines: list[str] = field(default_factory=list[str])

    def sink(self, name: str) -> LineSink:
        assert name
        return self.lines.append

    def say(self, text: str) -> None:
        self.lines.append(text)


SLEEPER = "print('ready', flush=True); __import__('time').sleep(60)"


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def started(said: Said) -> Iterator[list[Member]]:
    found: list[Member] = []
    yield found
    service.stop([(one.runnable, one.process) for one in found if one.process])


def start(runnable: Script, said: Said, started: list[Member]) -> Member:
    member = Member(runnable, said)
    started.append(member)
    member.spawn()
    return member


def look_until(member: Member, condition: Callable[[], bool], what: str) -> None:
    def looked() -> bool:
        member.look()
        return condition()

    wait_until(looked, timeout_s=20, what=what)


def look_until_it_is(member: Member, state: str) -> None:
    look_until(member, lambda: member.state == state, f"the member is {state}")


def test_it_is_started_again_and_says_why(said: Said, started: list[Member]) -> None:
    member = start(Script(SLEEPER), said, started)
    look_until_it_is(member, "ready")
    assert member.process is not None
    first = member.process.pid
    os.kill(first, signal.SIGKILL)

    look_until_it_is(member, "restarting")
    assert "script was killed by SIGKILL. Starting it again in 0.5 s." in said.lines
    look_until_it_is(member, "ready")

    assert member.process is not None
    assert member.process.pid != first


def test_pauses_grow_while_it_fails_and_are_forgotten_when_it_is_well(
    said: Said, started: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(members, "WELL_AFTER_S", 0.0)
    script = Script("print('no such table'); raise SystemExit(3)")
    member = start(script, said, started)

    look_until(member, lambda: member.failures == 3, "it failed three times")

    pauses = [line.rpartition(" in ")[2] for line in said.lines if "Starting it again" in line]
    assert pauses == ["0.0 s.", "0.0 s.", "0.0 s."]
    assert "script ended with exit code 3: no such table. Starting it again in 0.0 s." in said.lines
    script.script = SLEEPER
    look_until_it_is(member, "ready")
    look_until(member, lambda: member.failures == 0, "its failures are forgotten")


def test_one_that_cannot_be_started_is_tried_again(
    said: Said, started: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "FIRST_PAUSE_S", 0.01)
    script = Script("raise SystemExit(0)")
    member = start(script, said, started)
    script.refuses = True

    look_until(member, lambda: "It is refused. Starting it again in 0.0 s." in said.lines, "it was refused")

    assert member.process is None
    assert member.entry().pid is None
    script.refuses, script.script = False, SLEEPER
    look_until_it_is(member, "ready")


def test_one_that_never_gets_ready_is_ended_and_started_again(said: Said, started: list[Member]) -> None:
    member = start(Script("__import__('time').sleep(60)", ready_within_s=0.2), said, started)
    assert member.process is not None
    first = member.process

    look_until_it_is(member, "restarting")

    assert first.exit_code() is not None
    assert said.lines == ["script did not become ready within 0 s. Starting it again in 0.5 s."]


def test_one_that_does_not_listen_is_killed_with_its_children(said: Said, started: list[Member]) -> None:
    deaf = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGQUIT)];"
    child = "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE);"
    member = start(Script(f"{deaf}{child} print(c.pid, flush=True); {SLEEPER}"), said, started)
    look_until_it_is(member, "ready")
    assert member.process is not None
    grandchild = int(member.process.last_lines()[0])

    service.stop([(member.runnable, member.process)])

    assert member.process.exit_code() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        wait_until(lambda: os.kill(grandchild, 0))
