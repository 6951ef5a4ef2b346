"""Real workers and a real recorder: a run whose worker is killed is run again, and history says so."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from beatline.engine.messages import list_key
from beatline.ledger.history import attempts_of
from beatline.ledger.states import RunState
from support import run_tasks
from support.ledger import run_of, state_of
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings
    from support.processes import Spawn, StartProcess, StartWorker
    from support.serving import MakeSettings

_ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}

pytestmark = pytest.mark.proof


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",), lease_s=3.0, lease_renew_s=1.0)


def _succeeded(installation: Installation, run_id: str) -> bool:
    return state_of(installation, run_id) is RunState.SUCCEEDED


def test_a_message_that_a_killed_worker_took_along_is_run_by_another(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess
) -> None:
    """A frozen worker's connection takes the message off the list; killed, the worker has claimed nothing."""
    recorder()
    victim = worker("default", env=_ENV)
    for _ in range(20):
        os.killpg(victim.pid, signal.SIGSTOP)
        sent = app.tasks["test.add"].delay(1, 2).id
        if installation.redis.llen(list_key(installation.keys, "default", 0)) == 0:
            break  # it lies in the frozen worker's socket
        os.killpg(victim.pid, signal.SIGCONT)  # it was frozen while it did not wait for a message
        wait_until(partial(_succeeded, installation, sent))
    else:
        pytest.fail("the worker was never frozen while it waited for a message")
    victim.kill()
    assert not installation.redis.exists(installation.keys.run(sent))

    worker("default", env=_ENV)
    wait_until(lambda: state_of(installation, sent) is RunState.SUCCEEDED, timeout_s=30)


def test_a_killed_workers_run_is_run_by_another(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    victim = worker("default", env=_ENV)
    sent = app.tasks["test.hold"].delay(str(tmp_path)).id
    # Not the file: the pool child may write it before its parent has said that the attempt began.
    wait_until(lambda: state_of(installation, sent) is RunState.RUNNING)
    victim.kill()

    worker("default", env=_ENV)
    wait_until(lambda: (tmp_path / "begun").read_text().count(sent) == 2, timeout_s=20)
    (tmp_path / "go").touch()
    wait_until(lambda: state_of(installation, sent) is RunState.SUCCEEDED)

    run = run_of(installation, sent)
    with installation.engine.connect() as conn:
        first, second = attempts_of(conn, sent)
    assert (run.attempt, run.task, run.queue) == (2, "test.hold", "default")
    assert (first.outcome, first.reason) == ("lost", "its worker stopped renewing its lease")
    assert (second.outcome, second.worker) == ("succeeded", run.worker)
    assert first.worker != second.worker
    assert first.fence is not None
    assert second.fence is not None
    assert second.fence > first.fence
    assert (tmp_path / "done").read_text() == f"{sent} 2\n"


def test_a_task_that_kills_its_process_is_dead_after_three(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, spawn: Spawn, tmp_path: Path
) -> None:
    recorder()
    worker("default", env=_ENV)
    sent = app.tasks["test.die"].delay(str(tmp_path)).id
    neighbour = app.tasks["test.add"].delay(2, 3)
    assert neighbour.get(timeout=10) == 5

    wait_until(lambda: state_of(installation, sent) is RunState.DEAD, timeout_s=30)
    assert (tmp_path / "died").read_text() == "1\n2\n3\n"
    run = run_of(installation, sent)
    assert run.reason is not None
    assert run.reason.startswith("its worker died three times")
    assert "pool process died" in run.reason

    shown = spawn("beatline.cli", "runs", "show", sent[:8])
    assert shown.wait() == 0
    assert "Someone must look" in shown.output()
