"""Real processes, and a Redis that loses its data under them: what had ended is recorded, and is not executed again."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.clock import utc_now, utc_today
from beatline.engine.publish import message_of, publish_stored
from beatline.installation import Installation
from beatline.ledger.store import NewRun, insert_runs
from support import run_tasks
from support.apps import open_app
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.processes import StartProcess, StartWorker
    from support.servers import Server
    from support.serving import MakeSettings

_ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}

pytestmark = pytest.mark.proof


@pytest.fixture
def settings(make_settings: MakeSettings, own_redis: Server) -> Settings:
    return make_settings(redis_url=own_redis.url, task_modules=("support.run_tasks",), lease_s=3.0, lease_renew_s=0.5)


def states(installation: Installation) -> Counter[str]:
    with installation.engine.connect() as conn:
        return Counter(conn.execute(text("SELECT state FROM beatline.runs")).scalars())


def effects(folder: Path) -> Mapping[str, int]:
    """How often each run came to its end in a task, counted outside of the system."""
    done = folder / "done"
    return Counter(line.split()[0] for line in done.read_text().splitlines()) if done.exists() else Counter()


def undrained(installation: Installation) -> int:
    count: int = installation.redis.xlen(installation.keys.events)
    return count


def submit(app: Any, installation: Installation, folder: Path, count: int) -> list[str]:
    """Accept runs by their rows, as Beat does, and then publish them."""
    messages = [
        message_of(app, "test.hold", (str(folder),), {}, run_id=f"run-{number}", day=utc_today().isoformat())
        for number in range(count)
    ]
    runs = [
        NewRun(run_id=one.run_id, day=utc_today(), task=one.task, queue=one.queue, message=one.payload,
               accepted_at=utc_now())
        for one in messages
    ]  # fmt: skip
    with installation.engine.begin() as conn:
        insert_runs(conn, runs, installation.keyring)
    publish_stored(installation, messages)
    return [one.run_id for one in messages]


def empty(installation: Installation) -> int:
    """FLUSHALL; how many events had not been drained at that moment."""
    with installation.redis.pipeline(transaction=True) as pipe:
        pipe.xlen(installation.keys.events)
        pipe.flushall()
        count, _ = pipe.execute()
    return int(count)


def ended_behind_the_recorders_back(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, folder: Path, count: int
) -> None:
    """Runs that PostgreSQL knows as queued; a worker that still lives has ended all of them."""
    settings = installation.settings
    first = recorder(settings=settings)
    submit(app, installation, folder, count)
    wait_until(lambda: states(installation) == {"queued": count} and undrained(installation) == 0)
    assert first.stop() == 0
    worker("default", env=_ENV, settings=settings)
    wait_until(lambda: sum(effects(folder).values()) == count and undrained(installation) >= count)


@pytest.mark.parametrize("fault", ["emptied", "killed and restarted empty"])
def test_what_had_ended_when_redis_lost_its_data_is_recorded_and_not_run_again(
    app: Any, installation: Installation, own_redis: Server, worker: StartWorker, recorder: StartProcess,
    tmp_path: Path, fault: str,
) -> None:  # fmt: skip
    (tmp_path / "go").touch()
    ended_behind_the_recorders_back(app, installation, worker, recorder, tmp_path, 30)
    if fault == "emptied":
        assert empty(installation) >= 30
    else:
        own_redis.kill()
        shutil.rmtree(tmp_path / "own-redis" / "data")
        own_redis.start()
        installation.redis.connection_pool.disconnect()

    recorder()
    wait_until(lambda: states(installation) == {"succeeded": 30}, 30)
    with installation.engine.connect() as conn:
        assert set(conn.execute(text("SELECT result FROM beatline.runs")).scalars()) == {"'held'"}
    wait_until(lambda: installation.redis.get(installation.keys.settled), what="the reconciler may publish again")
    assert set(effects(tmp_path).values()) == {1}


def test_without_kept_ends_they_are_run_again(
    make_settings: MakeSettings, own_redis: Server, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    """The negative control: what the test above would see, if it were not for them."""
    settings = make_settings(
        redis_url=own_redis.url, task_modules=("support.run_tasks", "support.forgetful"), lease_s=3.0, lease_renew_s=0.5
    )
    installation = Installation(settings)
    (tmp_path / "go").touch()
    with open_app(settings) as app:
        ended_behind_the_recorders_back(app, installation, worker, recorder, tmp_path, 30)
    empty(installation)
    recorder(settings=settings)
    wait_until(lambda: set(effects(tmp_path).values()) == {2}, 30)
    wait_until(lambda: states(installation) == {"succeeded": 30})
    installation.redis.close()


def done_at_least(folder: Path, count: int) -> bool:
    return len(effects(folder)) >= count


def test_a_restart_with_its_append_only_file_repeats_nothing(
    app: Any, installation: Installation, own_redis: Server, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    recorder()
    for pool in ("prefork", "threads"):
        worker("default", pool=pool, concurrency=2, env=_ENV)
    submitted = submit(app, installation, tmp_path, 600)
    for share in (100, 300):
        wait_until(partial(done_at_least, tmp_path, share), 30)
        own_redis.kill()
        own_redis.start()
        installation.redis.connection_pool.disconnect()
    wait_until(lambda: states(installation) == {"succeeded": 600}, 45)
    assert effects(tmp_path) == dict.fromkeys(submitted, 1)
