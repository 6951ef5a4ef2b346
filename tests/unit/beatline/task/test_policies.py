"""What a task says of itself is checked where it is said, and travels with its messages."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery import Task as CeleryTask

from beatline.engine import headers as h
from beatline.errors import TaskOptionError
from beatline.task import policies
from beatline.task.base import adopt


@pytest.fixture
def app() -> Any:
    return Celery("mine", task_cls="beatline.task.base:Task", set_as_current=False)


def work() -> None:
    """The body of every task here."""


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"on_lost": "ded"}, "on_lost='ded' of task 'mine.a' is not allowed: it is 'repeat' or 'dead'."),
        ({"on_lost": None}, "on_lost=None of task 'mine.a' is not allowed: it is 'repeat' or 'dead'."),
        ({"durable": True}, "durable=True of task 'mine.a' is not allowed: it is 'drained' or 'strict'."),
    ],
)
def test_a_wrong_value_is_an_error_at_the_decorator(app: Any, option: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskOptionError) as raised:
        app.task(name="mine.a", lazy=False, shared=False, **option)(work)
    assert str(raised.value) == said
    assert "mine.a" not in app.tasks


def test_a_wrong_value_of_a_foreign_class_is_an_error_when_a_worker_adopts_it() -> None:
    class Foreign(CeleryTask):  # type: ignore[type-arg]  # as users write it
        name = "mine.foreign"
        on_lost = "never"

    with pytest.raises(TaskOptionError, match=r"on_lost='never' of task 'mine\.foreign'.*'repeat' or 'dead'"):
        adopt(Foreign())  # type: ignore[arg-type]  # ours is a stub of Celery's


def test_the_policy_of_a_known_task_goes_before_a_copied_header(app: Any) -> None:
    app.task(name="mine.parked", lazy=False, shared=False, on_lost="dead")(work)
    app.task(name="mine.repeated", lazy=False, shared=False)(work)
    copied = {h.ON_LOST: "dead"}
    assert policies.wire(app.tasks, "mine.parked", {}) == {h.ON_LOST: "dead"}
    assert policies.wire(app.tasks, "mine.repeated", copied) == {}
    assert policies.wire(app.tasks, "nobody.knows", copied) == copied
    assert policies.wire(app.tasks, "nobody.knows", {}) == {}
