"""A tethered process ends with the one that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from beatline.embedded.process import TETHER, Command, Process, tethered
from support.waiting import wait_until

PARENT = """
import sys, threading
from beatline.embedded.process import Command, Process
watched = sys.argv[1] == "watched"
argv = [sys.executable, "-c", sys.argv[2]]
one = Process(Command(argv=argv, env={}, death_signal=sys.argv[3], watched=watched), lambda line: print(line, flush=True))
threading.Event().wait()
"""
CHILD = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), flush=True)
__import__("time").sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + CHILD

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part of it is Linux's")
root_only = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="takes another identity: root only")


@pytest.fixture
def parents() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for parent in started:
        parent.kill()
        parent.communicate()


def start_parent(parents: list[subprocess.Popen[str]], way: str, child: str, death_signal: str) -> psutil.Process:
    """Start a parent whose tethered child has a child; the tethered one, once it runs."""
    command = [sys.executable, "-c", PARENT, way, child, death_signal]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    parents.append(parent)
    assert parent.stdout is not None
    return psutil.Process(int(parent.stdout.readline()))


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two questions
        return True


@linux_only
@pytest.mark.parametrize("death_signal", ["TERM", "KILL"])
def test_a_child_ends_when_its_parent_is_killed(parents: list[subprocess.Popen[str]], death_signal: str) -> None:
    child = start_parent(
        parents, "tied", "import os, time; print(os.getpid(), flush=True); time.sleep(60)", death_signal
    )

    parents[0].kill()

    wait_until(lambda: gone(child), what="the tethered process has ended")


@pytest.mark.parametrize("child", [CHILD, STUBBORN], ids=["willing", "stubborn"])
def test_where_a_watcher_stays_the_whole_group_ends(parents: list[subprocess.Popen[str]], child: str) -> None:
    process = start_parent(parents, "watched", child, "TERM")
    (grandchild,) = wait_until(process.children, what="the grandchild runs")

    parents[0].kill()

    wait_until(lambda: gone(process) and gone(grandchild), timeout_s=15, what="the whole group has ended")


def test_a_watcher_passes_signals_on_and_returns_the_exit_code() -> None:
    script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('on', flush=True); signal.pause()"
    process = Process(Command(argv=[sys.executable, "-c", script], env={}, death_signal="TERM", watched=True))
    wait_until(process.last_lines, what="the command runs")

    process.send(signal.SIGTERM)

    assert process.wait(10)
    assert process.exit_code() == 7
    process.close()


@linux_only
def test_a_child_whose_parent_died_before_it_began_does_not_begin() -> None:
    nobody_starts_this = str(2**22 + 1)
    command = [sys.executable, "-I", "-S", str(TETHER), "--parent", nobody_starts_this, "--death-signal", "TERM"]

    done = subprocess.run([*command, "--", "/bin/echo", "began"], capture_output=True, text=True, check=False)

    assert done.returncode == 120
    assert done.stdout == ""


def test_a_command_that_cannot_run_is_said(tmp_path: Path) -> None:
    process = Process(Command(argv=[str(tmp_path / "nothing")], env={}, death_signal="TERM", watched=False))

    assert process.wait(10)
    assert process.exit_code() == 121
    assert "No such file" in process.last_lines()[0]
    process.close()


@root_only
@pytest.mark.parametrize("identity", ["user-namespace", "65534:65534"])
def test_another_identity_is_taken_and_the_tie_to_the_parent_survives_it(identity: str) -> None:
    script = "import ctypes, os; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(os.getuid(), n.value)"
    command = Command(argv=["/usr/bin/env", "python3", "-c", script], env=dict(os.environ), death_signal="INT",
                      identity=identity)  # fmt: skip

    done = subprocess.run(tethered(command), capture_output=True, text=True, check=False)

    if identity == "user-namespace" and done.returncode == 121:
        pytest.skip(f"this machine allows no user namespace: {done.stderr.strip()}")
    expected = "1000" if identity == "user-namespace" else "65534"
    assert done.stdout.split() == [expected, str(int(signal.SIGINT))], done.stderr


def test_only_the_main_thread_starts_tethered_processes() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(Process, Command(argv=["/bin/true"], env={}, death_signal="TERM"))

    with pytest.raises(RuntimeError, match="main thread"):
        future.result()
