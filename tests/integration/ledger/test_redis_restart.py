"""A Redis that is killed and restarted under load, its append-only file whole: no run is lost, and none repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from support import run_tasks
from support.apps import open_app
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings
    from support.processes import StartProcess, StartWorker
    from support.servers import Server
    from support.serving import MakeSettings

ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}
RUNS = 400

pytestmark = pytest.mark.proof


@pytest.fixture
def settings(make_settings: MakeSettings, own_redis: Server) -> Settings:
    return make_settings(redis_url=own_redis.url, task_modules=("support.run_tasks",), lease_s=3.0, lease_renew_s=0.5)


@pytest.fixture
def app(settings: Settings) -> Iterator[Any]:
    with open_app(settings) as app:
        yield app


def succeeded(installation: Installation) -> bool:
    with installation.engine.connect() as conn:
        states = Counter(conn.execute(text("SELECT state FROM beatline.runs")).scalars())
    return states == {"succeeded": RUNS}


def effects(folder: Path) -> Counter[str]:
    """How often each run came to its end in a task, counted outside of the system."""
    done = folder / "done"
    return Counter(line.split()[0] for line in done.read_text().splitlines()) if done.exists() else Counter()


def done_at_least(folder: Path, count: int) -> bool:
    return len(effects(folder)) >= count


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_restart_with_its_append_only_file_repeats_nothing(
    app: Any, installation: Installation, own_redis: Server, worker: StartWorker, recorder: StartProcess, tmp_path: Path,
    pool: str,
) -> None:  # fmt: skip
    (tmp_path / "go").touch()
    recorder()
    for _ in range(2):
        worker("default", pool=pool, concurrency=2, env=ENV)
    sent = [app.tasks["test.hold"].delay(str(tmp_path)).id for _ in range(RUNS)]
    for share in (100, 250):
        wait_until(partial(done_at_least, tmp_path, share), 30)
        own_redis.kill()
        own_redis.start()
        installation.redis.connection_pool.disconnect()
    wait_until(lambda: succeeded(installation), 45)
    assert effects(tmp_path) == dict.fromkeys(sent, 1)
