"""The look at signs of life and at pages, with files and servers that are made up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from beatline.clock import monotonic_s
from beatline.errors import BeatlineError
from beatline.health import main, of_duty, of_page
from beatline.pulse import Pulse, started
from support.web import Reply, serve

NO_PROCESS: Final = 2**22 + 1
"""Above the highest pid of Linux and macOS."""


def sign_of(folder: Path, pid: int) -> Path:
    """Where the process with this pid leaves its sign, for a worker."""
    since = started(str(pid))
    return folder / (f"worker.{pid}" if since is None else f"worker.{pid}.{since}")


def test_a_process_that_said_so_a_moment_ago_is_healthy(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path / "new" / "folder", "beat")
    assert main(["beat", str(tmp_path / "new" / "folder")]) == 1, "nothing was done yet"
    pulse.beat("follower")
    pulse.beat("leader")
    found = of_duty("beat", tmp_path / "new" / "folder")
    assert found.healthy
    assert found.said.startswith(f"The beat with pid {os.getpid()} (leader) did its duty 0.")
    assert not of_duty("worker", tmp_path / "new" / "folder").healthy


@pytest.mark.parametrize("age_s", [31.0, -5.0])
def test_silence_is_told_and_so_is_a_time_of_another_boot(tmp_path: Path, age_s: float) -> None:
    Pulse(tmp_path, "recorder").beat("drained")
    (sign,) = tmp_path.iterdir()
    os.utime(sign, (monotonic_s() - age_s, monotonic_s() - age_s))
    found = of_duty("recorder", tmp_path)
    assert not found.healthy
    assert "is silent" in found.said


def test_one_silent_process_among_several_is_enough_and_a_dead_one_does_not_count(tmp_path: Path) -> None:
    Pulse(tmp_path, "worker").beat("consumes")
    (tmp_path / f"worker.{NO_PROCESS}").write_text("works")
    (tmp_path / "worker.readme").write_text("no process")
    assert of_duty("worker", tmp_path).healthy
    sign_of(tmp_path, os.getppid()).write_text("works")  # its time is the wall's: far ahead
    found = of_duty("worker", tmp_path)
    assert not found.healthy
    assert f"pid {os.getppid()} (works) is silent" in found.said


def test_a_sign_of_one_who_had_the_same_pid_says_nothing(tmp_path: Path) -> None:
    """In a container each worker is the same pid again, and its folder may outlive it."""
    pid = os.getppid()
    since = started(str(pid))
    if since is None:
        pytest.skip("this system does not tell when a process started")
    for name in (f"worker.{pid}.{int(since) - 1}", f"worker.{pid}"):
        (tmp_path / name).write_text("works")
        os.utime(tmp_path / name, (monotonic_s(), monotonic_s()))
    assert "No worker has come to its duty yet" in of_duty("worker", tmp_path).said
    Pulse(tmp_path, "worker").beat("consumes")
    assert of_duty("worker", tmp_path).healthy
    sign_of(tmp_path, pid).write_text("works")
    assert f"pid {pid} (works) is silent" in of_duty("worker", tmp_path).said


def test_when_a_process_started_is_told_whatever_it_is_called(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        assert started(str(os.getpid())) is None
        return
    assert started(str(NO_PROCESS)) is None
    named = tmp_path / "a) b (c"
    named.symlink_to(sys.executable)
    process = subprocess.Popen([named, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert int(started(str(process.pid)) or 0) >= int(started(str(os.getpid())) or 0) > 0
    finally:
        process.communicate(b"\n")


def test_a_full_disk_or_no_folder_stops_nothing(tmp_path: Path) -> None:
    Pulse(None, "beat").beat("leader")
    (tmp_path / "file").touch()
    Pulse(tmp_path / "file", "beat").beat("leader")
    assert not of_duty("beat", tmp_path / "file").healthy


def test_a_page_is_healthy_if_it_answers_200() -> None:
    with serve() as web:
        web.answer = lambda asked: Reply(status=200 if asked.path == "/readyz" else 503)
        assert of_page(f"{web.url}/readyz").healthy
        found = of_page(f"{web.url}/else")
        assert (found.healthy, "answers 503" in found.said) == (False, True)
        gone = web.url
    assert "does not answer" in of_page(gone).said


def test_what_cannot_be_asked_for_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BeatlineError, match="name one of beat, worker, recorder"):
        of_duty("wroker", tmp_path)
    with pytest.raises(BeatlineError, match="is no URL of a page"):
        of_page("http://127.0.0.1:port/")
    assert main(["worker"]) == 1
    assert "beat|worker|recorder FOLDER" in capsys.readouterr().out


def test_the_check_imports_next_to_nothing(tmp_path: Path) -> None:
    """It is run every few seconds beside every process."""
    script = (
        "import sys; from beatline.health import main; main(['worker', sys.argv[1]]); "
        "print(sorted({'typer', 'pydantic', 'celery', 'redis', 'sqlalchemy', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_folder_that_cannot_be_looked_into_stops_nobody(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path / ("x" * 300), "beat")
    for _ in range(2):
        pulse.beat("leads")
    assert not list(tmp_path.iterdir())
