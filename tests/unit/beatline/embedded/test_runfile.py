"""How other commands find a running `beatline up`, and are not deceived by what a dead one left."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from beatline.embedded import runfile
from beatline.embedded.runfile import ProcessEntry, RunningUp
from beatline.errors import ServiceError

RUNNING = RunningUp(
    pid=os.getpid(),
    redis_url="redis://:hidden@127.0.0.1:1/0",
    database_url="postgresql://beatline:hidden@127.0.0.1:2/beatline",
    flower_url="http://127.0.0.1:5555/",
    processes=(ProcessEntry(name="beat", kind="beat", what="schedules", pid=1, started=2.5, state="ready"),),
)


def test_a_running_up_is_found_as_it_was_published(tmp_path: Path) -> None:
    lock = runfile.hold(tmp_path)
    runfile.publish(tmp_path, RUNNING)

    assert runfile.find_running(tmp_path) == RUNNING
    lock.release()


def test_what_a_dead_up_left_counts_for_nothing(tmp_path: Path) -> None:
    lock = runfile.hold(tmp_path)
    runfile.publish(tmp_path, RUNNING)
    lock.release()

    assert (tmp_path / "run.json").exists()
    assert runfile.find_running(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1}'])
def test_a_file_of_another_version_or_none_is_no_running_up(tmp_path: Path, text: str) -> None:
    lock = runfile.hold(tmp_path)
    (tmp_path / "run.json").write_text(text)

    assert runfile.find_running(tmp_path) is None
    lock.release()


def test_no_folder_is_no_running_up(tmp_path: Path) -> None:
    assert runfile.find_running(tmp_path / "nowhere") is None


def test_only_the_owner_may_read_it_and_its_repr_shows_no_password(tmp_path: Path) -> None:
    runfile.publish(tmp_path, RUNNING)

    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600
    assert "hidden" not in repr(RUNNING)


def test_a_second_up_on_the_folder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    lock = runfile.hold(tmp_path)

    with pytest.raises(ServiceError, match=rf"process {os.getpid()}\) already runs on .*BEATLINE_HOME"):
        runfile.hold(tmp_path)
    lock.release()
    runfile.hold(tmp_path).release()


def test_withdrawing_twice_is_no_error(tmp_path: Path) -> None:
    runfile.publish(tmp_path, RUNNING)

    runfile.withdraw(tmp_path)
    runfile.withdraw(tmp_path)

    assert list(tmp_path.iterdir()) == []
