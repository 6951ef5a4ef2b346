"""What `beatline health` says of real processes, and how a worker stops that may not wait for ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from beatline.engine.duty import EVERY_S
from beatline.health import main, of_duty
from support.apps import open_app
from support.processes import StartProcess, StartWorker
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.serving import MakeSettings

ENV: Final = {"BEATLINE_TASK_MODULES": "support.run_tasks", "PYTHONPATH": str(Path(__file__).parents[2])}

pytestmark = pytest.mark.proof


@pytest.fixture
def signs(tmp_path: Path) -> Path:
    """The folder of the signs; it is not there yet."""
    return tmp_path / "signs"


@pytest.fixture
def app(make_settings: MakeSettings) -> Iterator[Any]:
    with open_app(make_settings(task_modules=("support.run_tasks",))) as app:
        yield app


def test_a_beat_and_a_recorder_show_that_they_do_their_duty(
    beat: StartProcess, recorder: StartProcess, signs: Path
) -> None:
    env = {"BEATLINE_HEALTH_FOLDER": str(signs)}
    leads = beat(env=env)
    wait_until(lambda: "(leader)" in of_duty("beat", signs).said)
    follows = beat(env=env)
    wait_until(lambda: "(follower)" in of_duty("beat", signs).said)
    assert of_duty("beat", signs, 5.0).healthy

    leads.send(signal.SIGSTOP)
    wait_until(lambda: f"pid {leads.pid} (leader) is silent" in of_duty("beat", signs, 1.0).said)
    assert main(["beat", str(signs)]) == 0, "a moment's silence is no illness"
    leads.kill()
    assert of_duty("beat", signs).said.startswith(f"The beat with pid {follows.pid} ")

    assert not of_duty("recorder", signs).healthy
    recorder(env=env)
    wait_until(lambda: of_duty("recorder", signs, 5.0).healthy)


def test_a_recorder_that_cannot_record_is_silent(
    own_postgres: Any, make_settings: MakeSettings, recorder: StartProcess, signs: Path
) -> None:
    from beatline.ledger.database import upgrade

    settings = make_settings(database_url=own_postgres.url, health_folder=signs)
    upgrade(settings)
    recorder(settings=settings)
    wait_until(lambda: of_duty("recorder", signs, 2.0).healthy)
    own_postgres.stop()
    wait_until(lambda: "is silent" in of_duty("recorder", signs, 3.0).said)
    own_postgres.start()
    wait_until(lambda: of_duty("recorder", signs, 2.0).healthy, 15.0)


def test_a_solo_worker_is_healthy_while_it_works_and_while_it_does_not(
    app: Any, worker: StartWorker, signs: Path, tmp_path: Path
) -> None:
    # Its loop stands still while the task runs: only the renewing of its lease shows that it is well.
    env = ENV | {"BEATLINE_HEALTH_FOLDER": str(signs), "BEATLINE_LEASE_S": "3", "BEATLINE_LEASE_RENEW_S": "0.5"}
    alive = worker("default", pool="solo", env=env)
    wait_until(lambda: "(consumes)" in of_duty("worker", signs).said)

    app.tasks["test.hold"].delay(str(tmp_path))
    wait_until(lambda: "(works)" in of_duty("worker", signs, 2.0).said)
    (sign,) = signs.iterdir()
    seen = sign.stat().st_mtime
    wait_until(lambda: sign.stat().st_mtime > seen + EVERY_S / 4)
    (tmp_path / "go").touch()
    wait_until(lambda: "(consumes)" in of_duty("worker", signs).said)

    alive.kill()
    assert main(["worker", str(signs)]) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_stops_waits_for_its_runs_and_then_gives_them_back(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    lease = {"BEATLINE_LEASE_S": "3", "BEATLINE_LEASE_RENEW_S": "1"}  # a recorder looks on for a lease first
    recorder(env=lease)
    stopping = worker("default", pool=pool, concurrency=2, env=ENV | lease | {"BEATLINE_STOP_WITHIN_S": "2"})
    short, long = tmp_path / "short", tmp_path / "long"
    for folder in (short, long):
        folder.mkdir()
    ends, stays = (app.tasks["test.hold"].delay(str(folder)) for folder in (short, long))
    wait_until(lambda: (short / "begun").exists() and (long / "begun").exists())
    stopping.send(signal.SIGTERM)
    (short / "go").touch()

    assert stopping.wait() == 0
    assert (short / "done").exists()
    keys = installation.keys
    assert installation.redis.hget(keys.run(ends.id), "state") == "ended"
    wait_until(lambda: installation.redis.hget(keys.run(stays.id), "state") == "returned", what="it is given back")
    (long / "go").touch()
    worker("default", pool=pool, env=ENV | lease)
    wait_until(lambda: installation.redis.hget(keys.run(stays.id), "state") == "ended")
    assert installation.redis.hget(keys.run(stays.id), "attempt") == "2"


def test_a_worker_that_runs_nothing_stops_at_once(app: Any, worker: StartWorker) -> None:
    stopping = worker("default", pool="threads", env=ENV | {"BEATLINE_STOP_WITHIN_S": "60"})
    assert stopping.stop(timeout_s=5.0) == 0
