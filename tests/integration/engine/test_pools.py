"""Claim, lease and end hold whichever pool executes the run."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from beatline.installation import Installation
from beatline.ledger.history import attempts_of
from beatline.ledger.states import RunState
from support import run_tasks
from support.ledger import state_of
from support.pools import GEVENT, POOLS
from support.processes import StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

TESTS = str(Path(run_tasks.__file__).parents[1])
ENV = {"PYTHONPATH": os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))}


pytestmark = pytest.mark.proof


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks", "support.policy_tasks"), lease_s=3.0, lease_renew_s=1.0)


def has_ended(installation: Installation, run_id: str, how: str) -> bool:
    return state_of(installation, run_id) == how


def outcomes(installation: Installation, run_id: str) -> list[tuple[int, str | None]]:
    with installation.engine.connect() as conn:
        return [(one.attempt, one.outcome) for one in attempts_of(conn, run_id)]


@pytest.mark.parametrize("pool", POOLS)
def test_runs_end_in_every_way_and_a_long_one_keeps_its_lease(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    recorder()
    worker("default", pool=pool, concurrency=1 if pool == "solo" else 2, env=ENV)
    good, bad, again, strict = (
        app.tasks["test.add"].delay(2, 3).id,
        app.tasks["test.fail"].delay().id,
        app.tasks["test.flaky"].delay(1).id,
        app.tasks["test.strict"].delay(str(tmp_path)).id,
    )
    wait_until(lambda: (tmp_path / "begun").exists())
    since = installation.redis.time()[0]
    wait_until(lambda: installation.redis.time()[0] > since + 7)  # two leases
    (tmp_path / "go").touch()
    for run_id, ended in ((good, "succeeded"), (bad, "failed"), (again, "succeeded"), (strict, "succeeded")):
        wait_until(partial(has_ended, installation, run_id, ended))
    wait_until(lambda: installation.redis.zcard(installation.keys.leases) == 0)
    assert outcomes(installation, again) == [(1, "retried"), (2, "succeeded")]
    assert (tmp_path / "begun").read_text() == f"{strict} 1\n"
    assert outcomes(installation, strict) == [(1, "succeeded")]


@pytest.mark.parametrize("pool", ["threads", "solo", GEVENT])
def test_what_follows_a_run_follows_it_as_on_prefork(
    installation: Installation, app: Any, worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    worker("default", pool=pool, concurrency=1 if pool == "solo" else 2, env=ENV)
    add, folder = app.tasks["test.add"], str(tmp_path)
    linked = add.apply_async((1, 1), link=app.signature("test.count", (folder, 7), immutable=True))
    replaced = app.tasks["test.replace"].delay(add.s(3, 4))
    sent = [
        (linked, 2),
        (replaced, 7),
        (chain(add.s(1, 2), add.s(3)).delay(), 6),
        (group(add.s(i, i) for i in range(3)).delay(), [0, 2, 4]),
        (chord((add.s(i, i) for i in range(3)), add.si(5, 5)).delay(), 10),
    ]
    for result, expected in sent:
        assert result.get(timeout=10) == expected
    wait_until(lambda: (tmp_path / "counted").exists() and installation.redis.zcard(installation.keys.leases) == 0)
    assert (tmp_path / "counted").read_text() == "7\n"


@pytest.mark.parametrize("pool", POOLS)
def test_the_run_of_a_killed_worker_is_run_by_another(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    recorder()
    victim = worker("default", pool=pool, env=ENV)
    sent = app.tasks["test.usual"].delay(str(tmp_path)).id
    wait_until(lambda: state_of(installation, sent) is RunState.RUNNING)
    victim.kill()
    (tmp_path / "go").touch()
    worker("default", pool=pool, env=ENV)
    wait_until(lambda: state_of(installation, sent) is RunState.SUCCEEDED, timeout_s=20)
    assert outcomes(installation, sent) == [(1, "lost"), (2, "succeeded")]
    assert (tmp_path / "begun").read_text() == f"{sent} 1\n{sent} 2\n"


@pytest.mark.parametrize("pool", [GEVENT])
def test_a_body_that_blocks_in_c_for_longer_than_a_lease_costs_no_run_its_lease(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    recorder()
    blocked = worker("default", pool=pool, concurrency=2, env=ENV)
    beside = app.tasks["test.usual"].delay(str(tmp_path)).id
    wait_until(lambda: state_of(installation, beside) is RunState.RUNNING)
    blocks = app.tasks["test.blocks"].delay(str(tmp_path), 6).id  # two leases
    wait_until(lambda: blocks in (tmp_path / "begun").read_text())
    worker("default", env=ENV)  # would execute what is lost
    (tmp_path / "go").touch()
    for run_id in (beside, blocks):
        wait_until(partial(has_ended, installation, run_id, "succeeded"), timeout_s=15)
    assert (tmp_path / "begun").read_text() == f"{beside} 1\n{blocks} 1\n"
    assert "leases_lapsed" not in blocked.output()
