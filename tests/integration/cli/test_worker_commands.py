"""Draining and cancelling on the command line, with the workers that are told."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from beatline.cli.output import operator
from support import run_tasks
from support.ledger import run_of, state_of
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings
    from support.processes import StartProcess, StartWorker
    from support.serving import MakeSettings

TESTS = str(Path(run_tasks.__file__).parents[1])
ENV = {"PYTHONPATH": os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))}
Cli = Callable[..., Any]

pytestmark = pytest.mark.proof


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks", "support.cancel_tasks"), lease_s=3.0, lease_renew_s=1.0)


def test_a_worker_that_is_drained_ends_what_runs_gives_back_the_rest_and_goes(
    cli: Cli, app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    first = worker("default", env=ENV)
    hold = app.tasks["test.hold"]
    runs = hold.delay(str(tmp_path)).id
    wait_until(lambda: state_of(installation, runs) == "running")
    waits = hold.delay(str(tmp_path)).id

    name = f"worker1@{socket.gethostname()}"
    told = cli("workers", "drain", "worker1")
    assert (told.code, told.err) == (0, f"{name} takes nothing more, and ends when nothing runs there any more.\n")
    assert first.exit_code is None
    (tmp_path / "go").touch()
    assert first.wait() == 0
    assert (tmp_path / "done").read_text() == f"{runs} 1\n"

    worker("default", env=ENV)
    wait_until(lambda: state_of(installation, waits) == "succeeded")
    assert state_of(installation, runs) == "succeeded"
    assert [line.split()[0] for line in (tmp_path / "begun").read_text().splitlines()] == [runs, waits]


def test_a_hard_cancel_leaves_a_task_no_time(
    cli: Cli, app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    worker("default", env=ENV)
    sent = app.tasks["test.stubborn"].delay(str(tmp_path)).id
    wait_until(lambda: state_of(installation, sent) == "running")

    told = cli("runs", "cancel", sent[:8], "--hard", "--reason", "it hangs")
    by = f"worker1@{socket.gethostname()}"
    assert (told.code, told.err) == (0, f"Run {sent} is being cancelled by {by}: `beatline runs show {sent}`.\n")
    wait_until(lambda: state_of(installation, sent) == "cancelled")
    assert run_of(installation, sent).reason == f"cancelled by {operator()}: it hangs (its process was killed)"
    assert not (tmp_path / "ignored").exists(), "its process was killed before it could take no notice"
    after = app.tasks["test.add"].delay(1, 2)
    assert after.get(timeout=10) == 3
