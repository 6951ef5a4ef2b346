"""A paused queue gives nothing to any worker and loses nothing; a drained worker takes nothing more, and ends."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from beatline.engine.orders import paused_queues
from beatline.errors import ConflictError, NotFoundError
from beatline.installation import Installation
from beatline.ledger.history import attempts_of, find_run
from beatline.ledger.model import audit
from beatline.queues.census import lengths, workers
from beatline.queues.draining import drain
from beatline.queues.overview import overview
from beatline.queues.pausing import pause, resume
from support import run_tasks
from support.pools import POOLS
from support.processes import Spawned, StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

TESTS = str(Path(run_tasks.__file__).parents[1])
ENV = {"PYTHONPATH": os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))}

pytestmark = pytest.mark.proof


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks",), lease_s=3.0, lease_renew_s=1.0)


def waits(installation: Installation, queue: str) -> int:
    return lengths(installation.redis, installation.keys, [queue])[queue]


def has_succeeded(installation: Installation, run_id: str) -> bool:
    with installation.engine.connect() as conn, suppress(NotFoundError):
        return find_run(conn, run_id).state == "succeeded"
    return False


def log_of(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("pool", POOLS)
def test_a_paused_queue_waits_while_others_go_on(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, pool: str
) -> None:
    recorder()
    serving = worker("default", "workflow", pool=pool, concurrency=1 if pool == "solo" else 2, env=ENV)
    assert pause(installation, "default", who="ann@here", reason="the shop is shut").told
    serving.wait_for("queues_stopped", 2.5)
    waiting = [app.tasks["test.add"].delay(n, 1).id for n in range(3)]
    other = app.tasks["test.add"].apply_async((1, 1), queue="workflow").id
    wait_until(lambda: has_succeeded(installation, other))
    assert waits(installation, "default") == 3
    with pytest.raises(ConflictError, match=r"paused since .*, by ann@here: the shop is shut"):
        pause(installation, "default", who="bob@here")
    resume(installation, "default", who="ann@here")
    for run_id in waiting:
        wait_until(partial(has_succeeded, installation, run_id))
    with pytest.raises(ConflictError, match="not paused"):
        resume(installation, "default", who="ann@here")
    with installation.engine.connect() as conn:
        actions = conn.execute(select(audit.c.action).where(audit.c.kind == "queue").order_by(audit.c.id)).scalars()
        assert list(actions) == ["pause", "resume"]


def cut_off(installation: Installation, worker: Spawned) -> None:
    """End the connections of this worker to Redis, and nobody else's."""
    ours = {
        f"{one.laddr.ip}:{one.laddr.port}" for one in psutil.Process(worker.pid).net_connections("tcp") if one.raddr
    }
    for client in installation.redis.client_list():
        if client["addr"] in ours:
            installation.redis.client_kill_filter(_id=client["id"])


def test_a_worker_that_starts_or_connects_anew_keeps_to_a_pause(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess
) -> None:
    recorder()
    pause(installation, "default", who="ann@here")
    late = worker("default", "workflow", env=ENV)
    sent = app.tasks["test.add"].delay(1, 1).id
    [shown] = workers(app, installation.redis, installation.keys)
    assert (shown.queues, shown.paused) == (("workflow",), ("default",))
    cut_off(installation, late)
    wait_until(lambda: late.output().count("Connected to redis") == 2)
    other = app.tasks["test.add"].apply_async((1, 1), queue="workflow").id
    wait_until(partial(has_succeeded, installation, other))
    assert waits(installation, "default") == 1
    [line] = [line for line in overview(installation, app).queues if line.queue == "default"]
    assert (line.paused_by, line.workers, line.waiting) == ("ann@here", 1, 1)
    resume(installation, "default", who="ann@here")
    wait_until(partial(has_succeeded, installation, sent))


def test_an_unknown_queue_is_answered_with_those_there_are(installation: Installation) -> None:
    with pytest.raises(NotFoundError, match=r"There is no queue 'defualt'\. Queues: collect, default, email"):
        pause(installation, "defualt", who="ann@here")


def test_a_pause_outlives_what_redis_had(installation: Installation, recorder: StartProcess) -> None:
    pause(installation, "email", who="ann@here")
    recorder()
    installation.redis.delete(installation.keys.paused)
    assert paused_queues(installation.redis, installation.keys) is None
    wait_until(lambda: paused_queues(installation.redis, installation.keys) == frozenset({"email"}))


@pytest.mark.parametrize("pool", POOLS)
def test_a_drained_worker_finishes_what_runs_and_gives_back_the_rest(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    recorder()
    leaving = worker("default", pool=pool, arguments=("--prefetch-multiplier", "3"), env=ENV)
    runs = [app.tasks["test.hold"].delay(str(tmp_path)).id for _ in range(3)]
    wait_until(lambda: len(log_of(tmp_path, "begun")) == 1)
    if pool != "solo":  # which answers nobody while it works
        wait_until(lambda: waits(installation, "default") == 0)
    [told] = drain(installation, app, "worker1")
    assert told.answers is (pool != "solo")
    if pool != "solo":
        wait_until(lambda: waits(installation, "default") == 2)
        [shown] = workers(app, installation.redis, installation.keys)
        assert shown.draining
    (tmp_path / "go").touch()
    wait_until(lambda: leaving.exit_code == 0, 15)
    if pool != "solo":  # which may take more, before it looks
        assert waits(installation, "default") == 2
        assert log_of(tmp_path, "done") == [f"{runs[0]} 1"]
    worker("default", env=ENV)
    for run_id in runs:
        wait_until(partial(has_succeeded, installation, run_id))
    with installation.engine.connect() as conn:
        assert [one.outcome for one in attempts_of(conn, runs[0])] == ["succeeded"]
    with pytest.raises(NotFoundError, match=r"There is no worker 'nobody'\. Workers: worker2@"):
        drain(installation, app, "nobody")
