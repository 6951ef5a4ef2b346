"""What Beatline builds and declares by itself agrees with the Celery and kombu that are installed."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import celery.bootsteps
import pytest

from beatline.engine import headers as h
from beatline.engine import seams
from beatline.engine.messages import StoredMessage, list_names
from beatline.engine.publish import Wanted, message_of, messages_of, publish_stored
from beatline.engine.worker import _RUNNING  # pyright: ignore[reportPrivateUsage]  # the value is what is tested
from beatline.installation import Installation
from beatline.ledger.events import FIELD
from support.apps import open_app
from support.serving import MakeSettings

DAY = "2026-11-22"


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks",))


@pytest.fixture
def app(installation: Installation) -> Iterator[Any]:
    with open_app(installation.settings) as app:
        yield app


def queued(installation: Installation, queue: str) -> dict[str, Any]:
    keys = installation.keys
    found = [text for name in list_names(queue) for text in installation.redis.lrange(keys.queue(name), 0, -1)]
    assert len(found) == 1
    message: dict[str, Any] = json.loads(found[0])
    return message


@pytest.mark.parametrize("options", [{}, {"priority": 7}, {"queue": "heavy"}])
def test_a_message_built_for_a_stored_run_is_the_one_celery_sends(
    app: Any, installation: Installation, options: dict[str, Any]
) -> None:
    when = [{"at": datetime(2026, 11, 22, tzinfo=UTC)}]
    app.send_task("test.add", when, {"y": "ü"}, task_id="r1", headers={h.DAY: DAY}, **options)
    theirs = queued(installation, options.get("queue", "default"))
    built = message_of(app, "test.add", when, {"y": "ü"}, run_id="r1", day=DAY, **options)
    ours = json.loads(built.payload)

    assert built.queue == options.get("queue", "default")
    assert built.priority == options.get("priority", 0)
    assert ours["headers"].pop(h.STORED) == 1
    for message in (ours, theirs):
        for volatile in (h.PUBLISHED, "origin"):
            message["headers"].pop(volatile)
        for volatile in ("delivery_tag", "reply_to"):
            message["properties"].pop(volatile)
    assert ours["headers"] == theirs["headers"]
    assert ours == theirs


def test_messages_built_together_are_those_built_one_by_one(app: Any) -> None:
    wanted = [Wanted([f"message-{n}"], f"r{n}", DAY) for n in range(3)]
    together = messages_of(app, "email.process_message", wanted)
    single = [message_of(app, "email.process_message", one.args, {}, run_id=one.run_id, day=DAY) for one in wanted]
    assert len(together) == 3
    for ours, theirs in zip(together, single, strict=True):
        assert replace(ours, payload="") == replace(theirs, payload="")
        texts: list[str] = []
        for message in (ours, theirs):
            said = json.loads(message.payload)
            said["headers"].pop(h.PUBLISHED)
            said["properties"].pop("delivery_tag")
            texts.append(json.dumps(said))  # in the order it is written
            assert StoredMessage.parse(message.payload) == message
        assert texts[0] == texts[1]
    assert messages_of(app, "email.process_message", []) == []


def test_a_stored_run_is_queued_and_told_in_one_step(app: Any, installation: Installation) -> None:
    message = message_of(app, "test.add", [1, 2], {}, run_id="r1", day=DAY, priority=9)
    publish_stored(installation, [message])

    assert queued(installation, "default")["headers"]["id"] == "r1"
    [(_, entry)] = installation.redis.xrange(installation.keys.events)
    event = json.loads(entry[FIELD])
    assert (event["kind"], event["run_id"], event["day"]) == ("queued", "r1", DAY)
    assert "message" not in event


def _declared() -> list[tuple[str, str]]:
    """Every method and attribute that seams.py declares of a class of Celery's or kombu's."""
    tree = ast.parse(inspect.getsource(seams))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return [
        (node.name, part.name)
        for node in classes
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name != "__init__"
    ]


@pytest.mark.parametrize(("owner", "method"), _declared())
def test_what_the_engine_rests_on_exists(owner: str, method: str) -> None:
    assert callable(getattr(getattr(seams, owner), method))


def test_the_state_of_a_consumer_that_only_restarts() -> None:
    module: Any = celery.bootsteps
    assert module.RUN == _RUNNING
