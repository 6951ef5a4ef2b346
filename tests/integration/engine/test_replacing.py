"""A worker whose slots are held by runs that hang gives them up and replaces itself; everything else is executed once."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from beatline.engine.replacing import Tie, own_command
from beatline.installation import Installation
from beatline.ledger.history import find_run
from beatline.ledger.states import RunState
from beatline.queues.census import workers
from support import policy_tasks
from support.ledger import state_of
from support.pools import GEVENT
from support.processes import StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

pytestmark = pytest.mark.proof

TESTS = str(Path(policy_tasks.__file__).parents[1])
ENV = {
    "PYTHONPATH": os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH")))),
    "BEATLINE_TEST_HUNG_GRACE_S": "0.2",
}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.policy_tasks",), lease_s=3.0, lease_renew_s=1.0, stop_within_s=5.0)


def counted(folder: Path) -> Counter[str]:
    written = folder / "counted"
    return Counter(written.read_text().split() if written.exists() else [])


@pytest.mark.proof
@pytest.mark.parametrize("pool", ["threads", GEVENT])
def test_a_run_that_hangs_is_dead_after_three_and_costs_no_other_run_anything(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    recorder()
    pid_file = tmp_path / "worker.pid"
    arguments = ("--prefetch-multiplier", "4", "--pidfile", str(pid_file))
    served = worker("default", pool=pool, concurrency=4, arguments=arguments, env=ENV)
    sent = app.tasks["test.hang"].delay(str(tmp_path)).id
    for number in range(40):
        app.tasks["test.count"].delay(str(tmp_path), number)
    wait_until(lambda: state_of(installation, sent) is RunState.DEAD, timeout_s=50)
    for number in range(40, 60):
        app.tasks["test.count"].delay(str(tmp_path), number)
    wait_until(lambda: len(counted(tmp_path)) == 60, timeout_s=20)

    assert set(counted(tmp_path).values()) == {1}
    assert [line.split()[1:] for line in (tmp_path / "hung").read_text().splitlines()] == [
        [str(attempt), str(served.pid)] for attempt in (1, 2, 3)
    ]
    wait_until(
        lambda: len(re.findall(r"\bready\b", served.output())) == 4, timeout_s=20, what="it began anew three times"
    )
    with installation.engine.connect() as conn:
        reason = find_run(conn, sent).reason
    assert reason is not None
    assert reason.startswith("its worker died three times")
    assert int(pid_file.read_text()) == served.pid
    assert served.stop() == 0
    assert not pid_file.exists()


@pytest.mark.proof
def test_the_new_process_is_tied_to_its_parent_as_the_old_one_was(
    installation: Installation, app: Any, worker: StartWorker, tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ties a process to its parent")
    tied = {**ENV, "BEATLINE_TEST_TIE": str(tmp_path / "tie")}
    served = worker("default", pool="threads", concurrency=1, env=tied)
    app.tasks["test.hang"].delay(str(tmp_path))
    wait_until(lambda: len(re.findall(r"\bready\b", served.output())) == 2, timeout_s=30)
    wait_until(lambda: (tmp_path / "tie").read_text().splitlines() == ["0", str(signal.SIGUSR2.value)])


def test_a_leaked_slot_is_shown(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    """One of eight is not a quarter: the worker goes on, and says so."""
    served = worker("default", pool="threads", concurrency=8, env=ENV)
    app.tasks["test.hang"].delay(str(tmp_path))
    served.wait_for("slots_leaked")
    found = [one for one in workers(app, installation.redis, installation.keys) if one.answers]
    assert [(one.slots, one.leaked) for one in found] == [(8, 1)]
    assert app.tasks["test.count"].delay(str(tmp_path), 1).get(timeout=10) is None
    assert "worker_replaces_itself" not in served.output()


def test_a_task_that_holds_the_interpreter_longer_than_a_lease_is_named(
    installation: Installation, app: Any, worker: StartWorker
) -> None:
    served = worker("default", pool="threads", concurrency=2, env=ENV)
    hog = app.tasks["test.hog"].delay(5)
    line = served.wait_for(r".*leases_lapsed.*").group()
    assert f"test.hog {hog.id}" in line
    assert "belongs on a prefork pool" in line


def test_only_celery_worker_begins_anew() -> None:
    module = ["/venv/lib/celery/__main__.py", "-A", "shop", "worker"]
    assert own_command(module, ["python", "-X", "dev", "-m", "celery", "-A", "shop", "worker"]) == (
        sys.executable, "-X", "dev", "-m", "celery", "-A", "shop", "worker",
    )  # fmt: skip
    script = ["/venv/bin/celery", "-A", "shop", "worker", "-P", "threads"]
    assert own_command(script, ["/venv/bin/python", *script]) == (sys.executable, *script)
    assert own_command(["/srv/shop/serve.py", "worker"], ["python", "/srv/shop/serve.py", "worker"]) is None
    assert own_command(["/venv/bin/celery", "-A", "shop", "beat"], ["python"]) is None


def test_a_tie_is_renewed_in_the_thread_that_asks(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ties a process to its parent")
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGUSR2.value, 0, 0, 0)
    try:
        tie = Tie()
        libc.prctl(1, 0, 0, 0, 0)
        tie.renew()
        asked = ctypes.c_int(0)
        libc.prctl(2, ctypes.byref(asked), 0, 0, 0)
        assert asked.value == signal.SIGUSR2
        assert os.getppid() > 0
    finally:
        libc.prctl(1, 0, 0, 0, 0)
