"""Results are subscribed to when somebody waits: nothing that came before is missed, nor what comes after."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery import chord, group
from celery.result import GroupResult

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",))


def two(app: Any) -> Any:
    """The results of a group of two parts that was sent."""
    return group(app.tasks["test.add"].s(1, 1), app.tasks["test.add"].s(2, 2)).delay()


def end(app: Any, *results: Any) -> None:
    """As a worker does when a task has ended."""
    for number, result in enumerate(results):
        app.backend.store_result(result.id, number, "SUCCESS")


def test_who_only_sends_subscribes_to_nothing(app: Any) -> None:
    add = app.tasks["test.add"]
    sent = [add.delay(1, 1), two(app)]
    consumer = app.backend.result_consumer
    assert (consumer._pubsub, len(consumer._wanted)) == (None, 2), "the parts of a group are awaited as a whole"
    del sent
    gc.collect()
    assert consumer._wanted == set(), "what nobody can wait for is forgotten"
    chord([add.s(1, 1), add.s(2, 2)], add.s(2)).delay()
    assert consumer._pubsub is None


def test_what_ended_before_somebody_waits_is_there(app: Any) -> None:
    add = app.tasks["test.add"]
    parts = two(app)
    end(app, *parts.results)
    assert parts.get(timeout=5) == [0, 1]
    chosen = add.delay(1, 1)
    end(app, chosen)
    assert chosen.get(timeout=5) == 0
    within = two(app)
    last = add.delay(3, 3)
    whole: Any = GroupResult("whole", [within, last], app=app)
    end(app, *within.results, last)
    assert whole.get(timeout=5) == [[0, 1], 2]


def test_what_ends_while_somebody_waits_comes(app: Any) -> None:
    parts = two(app)
    timer = threading.Timer(0.5, end, (app, *parts.results))
    timer.start()
    assert parts.get(timeout=5) == [0, 1]
    timer.join()


def test_a_promise_is_kept_while_somebody_waits_for_another_result(app: Any) -> None:
    add = app.tasks["test.add"]
    kept: list[str] = []

    def keep(result: Any) -> None:
        kept.append(result.id)

    early, late = add.delay(1, 1), add.delay(2, 2)
    early.then(keep)
    end(app, early)
    late.then(keep)
    timer = threading.Timer(0.5, end, (app, late))
    timer.start()
    awaited = add.delay(3, 3)
    threading.Timer(1.0, end, (app, awaited)).start()
    assert awaited.get(timeout=5) == 0
    assert kept == [early.id, late.id]
    timer.join()
