"""`durable="strict"`: what has ended is not executed again, whatever Redis forgets and whenever the worker dies."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from beatline.clock import utc_now, utc_today
from beatline.engine.claim import Claims, Lease
from beatline.engine.held import End
from beatline.engine.lease import LeaseKeeper
from beatline.engine.messages import list_key
from beatline.engine.strict import StrictEnds
from beatline.installation import Installation
from beatline.ledger.database import upgrade
from beatline.ledger.events import FIELD, Event
from beatline.ledger.history import attempts_of
from beatline.ledger.states import EventKind, RunState
from support import policy_tasks
from support.apps import open_app
from support.ledger import state_of
from support.processes import StartProcess, StartWorker
from support.servers import Server
from support.serving import MakeSettings
from support.waiting import wait_until

pytestmark = pytest.mark.proof

ENV = {"PYTHONPATH": str(Path(policy_tasks.__file__).parents[1])}
DIES = {**ENV, "BEATLINE_TEST_FAILPOINT": "strict.committed"}


@pytest.fixture
def settings(make_settings: MakeSettings, own_redis: Server) -> Any:
    """On a Redis of its own, which a test may empty."""
    return make_settings(
        task_modules=("support.policy_tasks",),
        redis_url=own_redis.url,
        result_url=own_redis.url,
        lease_s=3.0,
        lease_renew_s=1.0,
    )


def executions(folder: Path) -> list[str]:
    begun = folder / "begun"
    return begun.read_text().splitlines() if begun.exists() else []


def message_of(installation: Installation) -> str:
    """The only message that waits."""
    payload: str = installation.redis.lindex(list_key(installation.keys, "default", 0), 0)
    return payload


# What waits for its commit, without a task.


@pytest.fixture
def keeper(installation: Installation) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(installation.settings)
    keeper.start()
    yield keeper
    keeper.stop()


def end_of(keeper: LeaseKeeper, run_id: str) -> End:
    lease = keeper.claim(run_id, 1, "w", utc_today().isoformat(), 0, run_id)
    assert isinstance(lease, Lease)
    said = Event(kind=EventKind.SUCCEEDED, run_id=run_id, attempt=1, day=lease.day, at=utc_now().timestamp(), task="t",
                 queue="q", fence=lease.fence)  # fmt: skip
    return End(lease, "ended", said)


def ends_in_redis(installation: Installation) -> list[str]:
    told = [json.loads(entry[FIELD]) for _, entry in installation.redis.xrange(installation.keys.events)]
    return [f"{event['run_id']} {event['kind']}" for event in told]


def test_an_end_is_in_postgresql_before_redis_is_told(keeper: LeaseKeeper, installation: Installation) -> None:
    seen: list[tuple[RunState | None, list[str]]] = []
    ends = StrictEnds(keeper, installation)
    ends.add(end_of(keeper, "r1")).then(
        lambda: seen.append((state_of(installation, "r1"), ends_in_redis(installation)))
    )
    wait_until(lambda: seen)
    assert seen == [(RunState.SUCCEEDED, ["r1 succeeded"])]
    assert keeper.held() == ()
    ends.stop()


def test_many_ends_are_few_transactions(keeper: LeaseKeeper, installation: Installation) -> None:
    ends, wanted = StrictEnds(keeper, installation), [end_of(keeper, f"r{n}") for n in range(60)]
    with installation.engine.begin() as blocking:  # the first batch waits for this lock, and the others for the first
        blocking.execute(text("LOCK TABLE beatline.run_days IN ACCESS EXCLUSIVE MODE"))
        waiting = [ends.add(end) for end in wanted]
    done: list[int] = []
    for number, one in enumerate(waiting):
        one.then(partial(done.append, number))
    wait_until(lambda: len(done) == 60)
    ends.stop()
    with installation.engine.connect() as conn:
        rows = conn.execute(text("SELECT count(DISTINCT xmin::text) FROM beatline.runs")).scalar_one()
    assert rows <= 2


def test_an_end_whose_lease_has_passed_to_another_is_not_written(
    keeper: LeaseKeeper, installation: Installation
) -> None:
    late = end_of(keeper, "r1")
    Claims(installation.redis, installation.keys, 20.0).return_run(
        "r1", late.lease.fence, events=[], queue_list=installation.keys.queue("q"), message="m", expired_only=False
    )
    ends, done = StrictEnds(keeper, installation), list[bool]()
    ends.add(late).then(lambda: done.append(True))
    wait_until(lambda: done)
    ends.stop()
    assert state_of(installation, "r1") is None
    assert ends_in_redis(installation) == ["r1 refused"]


def test_an_outage_of_postgresql_is_waited_for_with_two_lines_in_the_log(
    own_postgres: Server, make_settings: MakeSettings, own_redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(
        database_url=own_postgres.url, redis_url=own_redis.url, result_url=own_redis.url, lease_s=0.9, lease_renew_s=0.3
    )
    upgrade(settings)
    installation = Installation(settings)
    keeper = LeaseKeeper(settings)
    keeper.start()
    ends, done = StrictEnds(keeper, installation), list[bool]()
    caplog.set_level(logging.INFO, "beatline.engine.strict")
    own_postgres.stop()
    ends.add(end_of(keeper, "r1")).then(lambda: done.append(True))
    wait_until(lambda: "strict_ends_wait" in caplog.text)
    seconds = installation.redis.time()[0]
    wait_until(lambda: installation.redis.time()[0] > seconds + 2)  # two leases
    assert done == []
    assert [lease.run_id for lease in keeper.held()] == ["r1"]
    assert keeper.running() == (), "its slot is free"
    own_postgres.start()
    wait_until(lambda: done, timeout_s=20)
    assert state_of(installation, "r1") is RunState.SUCCEEDED
    assert [caplog.text.count(line) for line in ("strict_ends_wait", "strict_ends_committed")] == [1, 1]
    ends.stop()
    keeper.stop()
    installation.redis.close()


def test_a_worker_that_stops_tells_redis_what_it_could_not_commit(
    own_postgres: Server, make_settings: MakeSettings, own_redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(database_url=own_postgres.url, redis_url=own_redis.url, result_url=own_redis.url)
    installation = Installation(settings)
    keeper = LeaseKeeper(settings)
    ends, done = StrictEnds(keeper, installation), list[bool]()
    own_postgres.stop()
    ends.add(end_of(keeper, "r1")).then(lambda: done.append(True))
    ends.stop(timeout_s=0.5)
    assert done == [True]
    assert ends_in_redis(installation) == ["r1 succeeded"]
    assert "strict_end_not_committed" in caplog.text
    assert installation.redis.hget(installation.keys.run("r1"), "state") == "ended"
    keeper.stop()
    installation.redis.close()
    own_postgres.start()


@pytest.mark.proof
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_is_stopped_in_an_outage_leaves_nothing_to_be_repeated(
    own_postgres: Server, make_settings: MakeSettings, own_redis: Server, worker: StartWorker, tmp_path: Path,
    how: signal.Signals,
) -> None:  # fmt: skip
    settings = make_settings(
        task_modules=("support.policy_tasks",),
        database_url=own_postgres.url, redis_url=own_redis.url, result_url=own_redis.url,
    )  # fmt: skip
    installation = Installation(settings)
    upgrade(settings)  # a new Redis asks PostgreSQL of what was sent before it knew its epoch
    stopping = worker("default", env=ENV, settings=settings)
    with open_app(settings) as app:
        sent = app.tasks["test.strict"].delay(str(tmp_path)).id
    wait_until(lambda: (tmp_path / "begun").exists())
    own_postgres.stop()
    (tmp_path / "go").touch()
    stopping.wait_for("strict_ends_wait")
    assert installation.redis.hget(installation.keys.run(sent), "state") == "leased"
    stopping.send(how)
    stopping.wait(30)
    assert "strict_end_not_committed" in stopping.output()
    assert installation.redis.hget(installation.keys.run(sent), "state") == "ended"
    assert installation.redis.zcard(installation.keys.leases) == 0
    assert f"{sent} succeeded" in ends_in_redis(installation)
    installation.redis.close()
    own_postgres.start()


def test_a_worker_without_keys_does_not_start_with_strict_tasks(
    make_settings: MakeSettings, worker: StartWorker
) -> None:
    settings = make_settings(task_modules=("support.policy_tasks",), secret_keys=None)
    refused = worker("default", env=ENV, settings=settings, ready=False)
    assert refused.wait(20) != 0
    assert "KeyMissingError" in refused.output()


# The worst moment: PostgreSQL knows the end, and Redis does not.


def test_a_crash_between_the_two_is_cleaned_up_and_not_repeated(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    dying = worker("default", pool="threads", env=DIES)
    sent = app.tasks["test.strict"].delay(str(tmp_path)).id
    assert dying.wait() == -signal.SIGKILL
    assert state_of(installation, sent) is RunState.SUCCEEDED
    assert installation.redis.zcard(installation.keys.leases) == 1

    recorder()
    worker("default", env=ENV)
    wait_until(lambda: installation.redis.zcard(installation.keys.leases) == 0, timeout_s=20)
    assert state_of(installation, sent) is RunState.SUCCEEDED
    assert executions(tmp_path) == [f"{sent} 1"]
    with installation.engine.connect() as conn:
        assert [(one.attempt, one.outcome) for one in attempts_of(conn, sent)] == [(1, "succeeded")]


@pytest.mark.proof
@pytest.mark.parametrize(("task", "times"), [("test.strict", 1), ("test.usual", 2)])
def test_redis_empties_itself_at_the_worst_moment(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path, task: str,
    times: int,
) -> None:  # fmt: skip
    """The end of a strict task stands in PostgreSQL; that of any other was in Redis alone, and its message comes again."""
    sent = app.tasks[task].delay(str(tmp_path)).id
    message = message_of(installation)
    draining = recorder()
    dying = worker("default", pool="threads", env=DIES if task == "test.strict" else ENV)
    wait_until(lambda: state_of(installation, sent) is RunState.RUNNING)
    draining.kill()
    (tmp_path / "go").touch()
    if task == "test.usual":
        wait_until(lambda: installation.redis.hget(installation.keys.run(sent), "state") == "ended")
        dying.kill()
    dying.wait()
    installation.redis.flushall()

    recorder()
    worker("default", env=ENV)
    installation.redis.lpush(list_key(installation.keys, "default", 0), message)
    after = app.tasks["test.count"].delay(str(tmp_path), 1).id
    wait_until(lambda: state_of(installation, after) is RunState.SUCCEEDED, timeout_s=20)
    wait_until(lambda: state_of(installation, sent) is RunState.SUCCEEDED, timeout_s=20)
    assert len(executions(tmp_path)) == times


@pytest.mark.proof
def test_the_next_attempt_of_a_strict_task_is_committed_before_it_is_published(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    """The process dies between the two; the retry, with its own arguments, is published by the reconciler."""
    sent = app.tasks["test.strict_retry"].delay(str(tmp_path), "first").id
    dying = worker("default", pool="threads", env={**ENV, "BEATLINE_TEST_FAILPOINT": "strict.next_committed"})
    assert dying.wait() == -signal.SIGKILL
    installation.redis.flushall()
    recorder()
    worker("default", env=ENV)
    wait_until(lambda: state_of(installation, sent) is RunState.SUCCEEDED, timeout_s=30)
    assert (tmp_path / "steps").read_text() == "first 1\nsecond 2\n"
