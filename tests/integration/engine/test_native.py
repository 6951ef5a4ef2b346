"""On gevent: what waits for PostgreSQL in C waits alone, and no other run of its worker loses its lease by that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beatline.clock import monotonic_s
from beatline.installation import Installation
from beatline.ledger.database import upgrade
from beatline.settings import Settings
from support import policy_tasks
from support.ledger import long_ago, state_of
from support.pools import only_with_gevent
from support.processes import StartProcess, StartWorker
from support.servers import Server
from support.serving import MakeSettings
from support.waiting import wait_until

pytestmark = [pytest.mark.proof, only_with_gevent]

ENV = {"PYTHONPATH": str(Path(policy_tasks.__file__).parents[1])}
LEASE_S = 3.0


@pytest.fixture
def settings(make_settings: MakeSettings, own_postgres: Server) -> Settings:
    settings = make_settings(
        task_modules=("support.policy_tasks",), database_url=own_postgres.url, lease_s=LEASE_S, lease_renew_s=1.0
    )
    upgrade(settings)
    return settings


def folder(parent: Path, name: str, *, go: bool = False) -> Path:
    made = parent / name
    made.mkdir()
    if go:
        (made / "go").touch()
    return made


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def holds(installation: Installation, run_ids: set[str]) -> bool:
    """Whether the leases of these runs hold, by the clock of Redis."""
    seconds, _ = installation.redis.time()
    return run_ids <= set(installation.redis.zrangebyscore(installation.keys.leases, seconds * 1000, "+inf"))


def succeeds(installation: Installation, run_id: str) -> None:
    wait_until(lambda: state_of(installation, run_id) == "succeeded", 20)


def test_strict_runs_that_wait_for_a_frozen_postgresql_cost_no_run_its_lease(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, own_postgres: Server,
    tmp_path: Path,
) -> None:  # fmt: skip
    before, strict, usual = folder(tmp_path, "0", go=True), folder(tmp_path, "1"), folder(tmp_path, "2")
    long_ago(installation)  # else what is sent to a Redis this young is asked of PostgreSQL
    recorder()
    held_up = worker("default", pool="gevent", concurrency=8, env=ENV)
    succeeds(installation, app.tasks["test.strict"].delay(str(before)).id)  # over a connection that stays open
    ends, lasts = app.tasks["test.strict"].delay(str(strict)).id, app.tasks["test.usual"].delay(str(usual)).id
    wait_until(lambda: lines(strict / "begun") and lines(usual / "begun"))
    worker("default", env=ENV)  # would execute what is lost
    with own_postgres.frozen():
        (strict / "go").touch()
        again = app.tasks["test.strict_retry"].delay(str(tmp_path), "first").id
        wait_until(lambda: lines(tmp_path / "steps"))
        since = monotonic_s()
        while monotonic_s() < since + 2 * LEASE_S:
            wait_until(lambda: holds(installation, {ends, lasts, again}), 0.5, what="all leases hold")
        for number in range(8):
            app.tasks["test.count"].delay(str(tmp_path), number)
        wait_until(lambda: len(lines(tmp_path / "counted")) == 8, what="both workers take more")
    (usual / "go").touch()
    for run_id in (ends, lasts, again):
        succeeds(installation, run_id)
    assert (lines(strict / "begun"), lines(usual / "begun")) == ([f"{ends} 1"], [f"{lasts} 1"])
    assert lines(tmp_path / "steps") == ["first 1", "second 2"]
    assert "leases_lapsed" not in held_up.output()
