"""What becomes of deliveries: who answers for them, what a lost connection costs, whose time limits hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.thread import TaskPool as ThreadsPool
from kombu import Queue

from beatline.clock import monotonic_s
from beatline.engine.messages import list_key
from beatline.engine.request import LeasedRequest, Limits
from beatline.engine.strategy import _limits as limits_of  # pyright: ignore[reportPrivateUsage]  # no worker lasts hours
from beatline.installation import Installation
from support import run_tasks
from support.processes import StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks",), lease_s=2.0, lease_renew_s=0.5)


def test_a_message_fetched_by_hand_goes_back_if_nobody_acknowledges_it(app: Any, installation: Installation) -> None:
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("mine")
        queue.put({"a": 1})
        queue.close()
    key = list_key(installation.keys, "mine", 0)
    assert installation.redis.llen(key) == 1
    connection = app.connection_for_write()
    channel = connection.channel()
    message: Any = Queue("mine")(channel).get(no_ack=False)
    assert message.payload == {"a": 1}
    assert installation.redis.llen(key) == 0
    channel.close()
    connection.close()
    assert installation.redis.llen(key) == 1
    installation.redis.delete(key)


@pytest.mark.proof
def test_a_lost_connection_runs_nothing_twice_that_a_pool_of_threads_was_given(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    loser = worker("default", pool="threads", env=ENV, arguments=("--prefetch-multiplier", "4"))
    app.tasks["test.hold"].delay(str(first))
    wait_until((first / "begun").exists)
    waiting = app.tasks["test.hold"].delay(str(second))
    record = installation.keys.run(waiting.id)
    wait_until(lambda: installation.redis.hget(record, "state") == "leased")
    worker("default", pool="threads", env=ENV)  # where a second attempt would run
    assert loser.lose_connections(installation.redis, "brpop")
    since = monotonic_s()
    wait_until(lambda: monotonic_s() > since + 2 * installation.settings.lease_s + 1, 10, what="a lease would be over")
    assert not (second / "begun").exists()
    for folder in (first, second):
        (folder / "go").touch()
    wait_until((second / "done").exists, 10)
    assert (second / "done").read_text() == f"{waiting.id} 1\n"


def consumer(pool: type, hard_s: float, *queues: str) -> Any:
    amqp = SimpleNamespace(queues=SimpleNamespace(consume_from=dict.fromkeys(queues)))
    return SimpleNamespace(
        pool=object.__new__(pool), app=SimpleNamespace(amqp=amqp), controller=SimpleNamespace(time_limit=hard_s)
    )


def test_a_worker_of_several_queues_gives_each_run_the_limits_of_its_own() -> None:
    both = limits_of((), consumer(PreforkPool, 14_400, "default", "heavy"))
    assert (both["default"], both["heavy"]) == (Limits(300, 270), Limits(14_400, 14_100))
    assert limits_of((), consumer(PreforkPool, 60, "default", "heavy")) == {}, "limits that were given hold for all"
    assert limits_of((), consumer(ThreadsPool, 0, "email"))["email"] == Limits(300, 270)


@pytest.mark.parametrize(
    ("pool", "message", "task", "after"),
    [
        (PreforkPool, (None, None), None, Limits(300, 270)),
        (PreforkPool, (5, None), None, (5, None)),
        (PreforkPool, (None, None), 7, (None, None)),
        (ThreadsPool, (None, None), None, (None, None)),
    ],
)
def test_the_queue_s_limits_hold_where_neither_sender_nor_task_has_set_any(
    pool: type, message: Any, task: float | None, after: Any
) -> None:
    request: Any = object.__new__(LeasedRequest)
    request.time_limits = message
    request._task = SimpleNamespace(time_limit=task, soft_time_limit=None)
    request.claim = SimpleNamespace(limits=Limits(300, 270))
    request.limit_by_queue(object.__new__(pool))
    assert request.time_limits == after
