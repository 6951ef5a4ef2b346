"""How soon a killed worker's runs are running again, by the clock: within a lease and ten seconds, or ten for one of five."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from beatline.clock import monotonic_s
from beatline.installation import Installation
from beatline.ledger.history import RunFilter, list_runs
from beatline.ledger.states import RunState
from beatline.ledger.suspects import lost_suspects
from support import run_tasks
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.processes import StartProcess, StartWorker
    from support.servers import Server
    from support.serving import MakeSettings

_ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}

pytestmark = pytest.mark.proof


EMPTIED = "killed, and Redis emptied"


@pytest.fixture
def settings(make_settings: MakeSettings, own_redis: Server, lease_s: float) -> Settings:
    return make_settings(
        redis_url=own_redis.url, task_modules=("support.run_tasks",), lease_s=lease_s, lease_renew_s=lease_s / 5
    )


def begun(folder: Path) -> int:
    """How often a run has begun, counted outside of the system."""
    log = folder / "begun"
    return len(log.read_text().splitlines()) if log.exists() else 0


def is_running(installation: Installation) -> bool:
    with installation.engine.connect() as conn:
        return any(run.state is RunState.RUNNING for run in list_runs(conn, RunFilter()))


def suspects(installation: Installation) -> int:
    with installation.engine.connect() as conn:
        return lost_suspects(installation, conn).count


@pytest.mark.parametrize(
    ("lease_s", "fault", "pool"),
    [(5.0, "killed", "prefork"), (5.0, "killed", "threads"), (5.0, EMPTIED, "prefork"), (1.0, "killed", "prefork")],
)
def test_a_killed_workers_run_is_running_again_in_time(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, lease_s: float,
    fault: str, pool: str,
) -> None:  # fmt: skip
    recorder()
    victim = worker("default", pool=pool, env=_ENV)
    app.tasks["test.hold"].delay(str(tmp_path))
    wait_until(partial(is_running, installation))
    worker("default", pool=pool, env=_ENV)  # its slot is free, and it has met the epoch
    victim.kill()
    since = monotonic_s()
    if fault == EMPTIED:
        installation.redis.flushall()

    bound_s = lease_s + 10.0 if fault == EMPTIED else 10.0
    wait_until(lambda: begun(tmp_path) == 2, bound_s - (monotonic_s() - since))
    assert suspects(installation) == 0
    (tmp_path / "go").touch()
    wait_until(lambda: not is_running(installation) and installation.redis.xlen(installation.keys.events) == 0)
    assert begun(tmp_path) == 2
