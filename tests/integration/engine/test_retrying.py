"""Real workers: a run that asks for another attempt while Redis is away, or full, is not given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from beatline.installation import Installation
from beatline.ledger.history import attempts_of
from beatline.ledger.states import RunState
from beatline.settings import Settings
from support import ending_tasks
from support.apps import open_app
from support.ledger import run_of, state_of
from support.processes import StartProcess, StartWorker
from support.servers import Server
from support.serving import MakeSettings
from support.waiting import wait_until

pytestmark = pytest.mark.proof

ENV: Final = {"PYTHONPATH": str(Path(ending_tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings, own_redis: Server) -> Settings:
    return make_settings(
        task_modules=("support.ending_tasks",), redis_url=own_redis.url, result_url=own_redis.url, lease_s=3.0,
        lease_renew_s=1.0,
    )  # fmt: skip


@pytest.fixture
def sent(settings: Settings, worker: StartWorker, recorder: StartProcess, tmp_path: Path) -> Any:
    """Sends a task; once it has begun, its run's id and its worker are returned."""

    def send(task: str, pool: str) -> Any:
        recorder()
        running = worker("default", pool=pool, env=ENV)
        with open_app(settings) as app:
            run_id: str = app.tasks[task].delay(str(tmp_path)).id
        wait_until(lambda: begun(tmp_path), what="the run begins")
        return run_id, running

    return send


def begun(folder: Path) -> list[str]:
    """Which attempts have begun."""
    file = folder / "begun"
    return file.read_text().split() if file.exists() else []


def outcomes(installation: Installation, run_id: str) -> list[str | None]:
    with installation.engine.connect() as conn:
        return [one.outcome for one in attempts_of(conn, run_id)]


@pytest.mark.parametrize(
    ("task", "pool"),
    [("ends.retry", "prefork"), ("ends.retry", "threads"), ("ends.retry_foreign", "threads"),
     ("ends.retry_raised", "prefork")],
)  # fmt: skip
def test_it_waits_for_a_redis_that_is_away(
    installation: Installation, own_redis: Server, sent: Any, tmp_path: Path, task: str, pool: str
) -> None:
    run_id, running = sent(task, pool)
    own_redis.stop()
    (tmp_path / "go").touch()
    running.wait_for("end_waits_for_redis")
    own_redis.start()
    wait_until(lambda: state_of(installation, run_id) is RunState.SUCCEEDED, 30)
    assert outcomes(installation, run_id) == ["retried", "succeeded"]
    assert begun(tmp_path) == ["1", "2"]


def test_it_waits_for_room_in_a_full_redis(installation: Installation, sent: Any, tmp_path: Path) -> None:
    run_id, running = sent("ends.retry", "threads")
    installation.redis.config_set("maxmemory", "1mb")
    (tmp_path / "go").touch()
    running.wait_for("sending_waits_for_redis")
    installation.redis.config_set("maxmemory", "0")
    wait_until(lambda: state_of(installation, run_id) is RunState.SUCCEEDED, 30)
    assert begun(tmp_path) == ["1", "2"]


def test_where_its_time_is_up_meanwhile_the_attempt_is_lost_and_not_the_run(
    installation: Installation, sent: Any, tmp_path: Path
) -> None:
    run_id, running = sent("ends.retry_soon", "prefork")
    installation.redis.config_set("maxmemory", "1mb")
    (tmp_path / "go").touch()
    running.wait_for("sending_waits_for_redis")
    running.wait_for("Soft time limit")
    installation.redis.config_set("maxmemory", "0")
    wait_until(lambda: state_of(installation, run_id) is RunState.SUCCEEDED, 40)
    assert outcomes(installation, run_id) == ["lost", "succeeded"]
    assert run_of(installation, run_id).reason is None
    assert begun(tmp_path) == ["1", "2"]
