"""The services of docker-compose.yml, run from its own commands, environments and health checks."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from beatline.queues.census import lease_counts, workers
from beatline.queues.routing import known_queues
from support.apps import open_app
from support.compose import read
from support.containers import Container, Project, wait_healthy
from support.processes import Spawner
from support.serving import MakeSettings
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings

TASKS: Final = """
import time
from celery import shared_task

@shared_task(name="work.step")
def step(number, seconds):
    time.sleep(seconds)
    return number
"""
LEASE: Final = {"BEATLINE_LEASE_S": "3", "BEATLINE_LEASE_RENEW_S": "0.5"}
"""So that a killed worker is missed within seconds."""

pytestmark = [pytest.mark.timeout(240), pytest.mark.proof]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """The folder of tasks that is mounted."""
    folder = tmp_path / "mytasks"
    folder.mkdir()
    (folder / "work.py").write_text(TASKS)
    return folder


@pytest.fixture
def make_project(spawner: Spawner, tmp_path: Path, tasks: Path) -> Callable[[Settings], Project]:
    """A project on this test's installation; its .env says what a user's would."""

    def make(settings: Settings) -> Project:
        assert settings.secret_keys
        variables = {
            "BEATLINE_REDIS_PASSWORD": urlsplit(settings.redis_url).password or "none",
            "BEATLINE_POSTGRES_PASSWORD": urlsplit(settings.database_url).password or "none",
            "BEATLINE_SECRET_KEYS": settings.secret_keys.get_secret_value(),
            "BEATLINE_KEY_PREFIX": settings.key_prefix,
            "BEATLINE_QUEUES": ",".join(settings.queues),
            "BEATLINE_TASK_MODULES": "work",
            "BEATLINE_TASKS_FOLDER": str(tasks),
            **LEASE,
        }
        servers = {"redis": settings.redis_url, "postgres": settings.database_url}
        return Project(read(variables), servers, spawner, tmp_path / "project")

    return make


@pytest.fixture
def open_installation() -> Iterator[Callable[[Settings], tuple[Installation, Any]]]:
    """Opens an installation with its app."""
    from beatline.installation import Installation

    with ExitStack() as stack:

        def opened(settings: Settings) -> tuple[Installation, Any]:
            installation = Installation(settings)
            stack.callback(installation.redis.close)
            return installation, stack.enter_context(open_app(settings))

        yield opened


def states(installation: Installation) -> Counter[str]:
    with installation.engine.connect() as conn:
        rows = conn.execute(
            text("SELECT state, count(*) AS n FROM beatline.runs WHERE task = 'work.step' GROUP BY state")
        )
        return Counter({row.state: row.n for row in rows})


def attempts(installation: Installation) -> list[tuple[str, int, str, str]]:
    """(run, attempt, outcome, worker) of everything that was tried."""
    with installation.engine.connect() as conn:
        rows = conn.execute(text("SELECT run_id, attempt, outcome, worker FROM beatline.attempts ORDER BY 1, 2"))
        return [(row.run_id, row.attempt, row.outcome, row.worker) for row in rows]


def of_process(container: Container) -> str:
    """The part of a worker's name that is its process's."""
    return f"-{container.spawned.pid}-"


def test_the_whole_set_becomes_healthy_serves_every_queue_and_ends(
    make_settings: MakeSettings, empty_database: str, make_project: Callable[[Settings], Project],
    open_installation: Callable[[Settings], tuple[Installation, Any]],
) -> None:  # fmt: skip
    settings = make_settings(database_url=empty_database, queues=("invoices",))
    project = make_project(settings)
    assert project.run("migrate") == 0
    up = [
        container
        for name, service in project.services.items()
        if service.raw["image"].startswith("beatline") and name != "migrate"
        for container in project.up(name)
    ]
    assert len(up) == 11
    wait_healthy(up)

    installation, app = open_installation(settings)
    known = known_queues(settings.queues)
    consumers = Counter(queue for one in workers(app, installation.redis, installation.keys) for queue in one.queues)
    assert consumers == dict.fromkeys(known, 2) | {"invoices": 1}, "each has its pool and the backup"

    for number, queue in enumerate(known):
        app.send_task("work.step", (number, 0), queue=queue)
    wait_until(lambda: states(installation) == {"succeeded": len(known)}, 30.0)

    for one in up:
        one.spawned.send(signal.SIGTERM)
    codes = {one.name: one.spawned.wait(one.service.grace_s) for one in up}
    assert codes == dict.fromkeys(codes, 0)


def test_a_pool_of_three_goes_on_when_one_is_stopped_and_one_is_killed(
    make_settings: MakeSettings, make_project: Callable[[Settings], Project],
    open_installation: Callable[[Settings], tuple[Installation, Any]],
) -> None:  # fmt: skip
    settings = make_settings()
    project = make_project(settings)
    installation, app = open_installation(settings)

    def send(count: int, seconds: float) -> None:
        for number in range(count):
            app.send_task("work.step", (number, seconds), queue="email")

    one = [*project.up("recorder"), *project.up("worker-email")]
    wait_healthy(one)
    send(10, 0.1)
    wait_until(lambda: states(installation) == {"succeeded": 10})

    three = project.up("worker-email", 3)
    wait_healthy(three[1:])
    send(120, 3.0)
    wait_until(lambda: len(lease_counts(installation.redis, installation.keys)) == 3, what="all three work")
    stopped, killed, stays = three
    stopped.spawned.send(signal.SIGTERM)
    killed.spawned.kill()
    send(20, 0.1)

    wait_until(lambda: states(installation) == {"succeeded": 150}, 60.0)
    assert stopped.spawned.wait(stopped.service.grace_s) == 0
    assert stays.health()[0]
    assert not killed.health()[0]
    told = attempts(installation)
    assert Counter(run for run, _, outcome, _ in told if outcome == "succeeded").most_common(1)[0][1] == 1
    lost = [worker for *_, outcome, worker in told if outcome == "lost"]
    assert lost, "the killed one had runs in hand"
    assert all(of_process(killed) in worker for worker in lost), "the stopped one lost none"
    assert any(of_process(stopped) in worker for *_, outcome, worker in told if outcome == "succeeded")
