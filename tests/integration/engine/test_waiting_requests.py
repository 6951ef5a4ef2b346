"""What a worker holds and has not begun is found wherever it waits, and leaves nothing behind: for its rate limit, its time."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beatline.engine.taking import Taking
from beatline.installation import Installation
from beatline.ledger.cancel import cancel_run
from beatline.queues.census import lengths
from beatline.queues.pausing import pause, resume
from support import cancel_tasks
from support.ledger import state_of
from support.processes import StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

TESTS = str(Path(cancel_tasks.__file__).parents[1])
ENV = {"PYTHONPATH": os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks", "support.cancel_tasks"), lease_s=3.0, lease_renew_s=1.0)


def stands(installation: Installation, run_id: str, state: str) -> bool:
    return state_of(installation, run_id) == state


def is_held(installation: Installation, run_id: str) -> bool:
    return bool(installation.redis.hget(installation.keys.run(run_id), "state") == "leased")


@pytest.mark.proof
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_waits_for_its_rate_limit_is_cancelled_and_given_back(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, pool: str
) -> None:
    """Celery keeps it in a bucket, and shows it to nobody."""
    recorder()
    serving = worker("default", pool=pool, arguments=("--prefetch-multiplier", "4"), env=ENV)
    limited = app.tasks["test.limited"]
    first = limited.delay().id
    wait_until(lambda: stands(installation, first, "succeeded"))
    cancelled, given_back = (limited.delay().id for _ in range(2))
    for run_id in (cancelled, given_back):
        wait_until(partial(is_held, installation, run_id))
        wait_until(partial(stands, installation, run_id, "queued"))
    assert cancel_run(installation, cancelled, who="ann@here", app=app).how == "told"
    wait_until(lambda: stands(installation, cancelled, "cancelled"))
    pause(installation, "default", who="ann@here")
    serving.wait_for("queues_stopped")
    wait_until(lambda: lengths(installation.redis, installation.keys, ["default"])["default"] == 1)
    assert not is_held(installation, given_back)


@pytest.mark.proof
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_was_cancelled_before_its_time_does_not_come_back_at_it(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, pool: str
) -> None:
    recorder()
    worker("default", pool=pool, arguments=("--prefetch-multiplier", "4"), env=ENV)
    sent = app.tasks["test.add"].apply_async((1, 1), countdown=3).id
    wait_until(partial(is_held, installation, sent))
    wait_until(lambda: stands(installation, sent, "queued"))
    assert cancel_run(installation, sent, who="ann@here", app=app).how == "told"
    wait_until(lambda: stands(installation, sent, "cancelled"))
    later = app.tasks["test.add"].apply_async((1, 2), countdown=3).id
    wait_until(lambda: stands(installation, later, "succeeded"))
    [reserved] = app.control.inspect().reserved().values()
    assert reserved == []
    assert app.control.inspect().query_task(sent) == {name: {} for name in app.control.inspect().ping()}


class _FailingOnce:
    """What kombu's consumer shows of itself; it does not stop when it is told so first."""

    def __init__(self) -> None:
        self._queues: dict[str, object] = {"default": object(), "email": object()}
        self.failures = 1

    def cancel_by_queue(self, name: str) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("not now")
        del self._queues[name]

    def add_queue(self, queue: Any) -> None:
        self._queues[queue.name] = queue

    def consume(self) -> None:
        pass


def test_a_switch_that_failed_is_tried_again(installation: Installation, app: Any) -> None:
    app.amqp.queues.select(["default", "email"])

    def call_soon(call: Any, *args: Any) -> None:
        with suppress(OSError):  # which Celery logs
            call(*args)

    consumer: Any = _FailingOnce()
    parent: Any = SimpleNamespace(
        app=app, task_consumer=consumer, blueprint=SimpleNamespace(state=1), call_soon=call_soon
    )
    taking = Taking(parent)
    pause(installation, "email", who="ann@here")
    taking.look(parent)
    assert sorted(consumer._queues) == ["default", "email"]
    taking.look(parent)
    assert sorted(consumer._queues) == ["default"]
    resume(installation, "email", who="ann@here")
    taking.look(parent)
    assert sorted(consumer._queues) == ["default", "email"]
