"""A run id that a caller gives is taken once; what runs publish under ids that follow from theirs may come twice."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from celery import chain, group

from beatline.engine.given_ids import on_behalf_of_a_run
from beatline.engine.messages import list_key
from beatline.errors import ConflictError
from beatline.installation import Installation
from chaos.proxy import Proxy
from support import ending_tasks
from support.apps import open_app
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.processes import StartWorker
    from support.serving import MakeSettings

ENV: Final = {"PYTHONPATH": str(Path(ending_tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.ending_tasks",))


def lies_in_redis(installation: Installation) -> tuple[int, int, int]:
    """How many messages, events and indexed runs there are."""
    redis: Any = installation.redis
    keys = installation.keys
    return redis.llen(list_key(keys, "default", 0)), redis.xlen(keys.events), redis.zcard(keys.index("default"))


@pytest.mark.parametrize("later", [{}, {"countdown": 5}, {"countdown": 3600}], ids=["now", "soon", "delayed"])
def test_an_id_that_waits_is_refused_and_nothing_is_sent(
    app: Any, installation: Installation, later: dict[str, Any]
) -> None:
    note = app.tasks["ends.note"]
    assert note.apply_async((1, "", "a"), task_id="mine").id == "mine"
    before = lies_in_redis(installation)
    assert before == (1, 1, 1)
    for send in (
        lambda: note.apply_async((2, "", "b"), task_id="mine", **later),
        lambda: app.send_task("ends.note", (2, "", "b"), task_id="mine", **later),
        lambda: chain(note.s(2, "", "b").set(task_id="mine", **later), note.si(3, "", "c")).apply_async(),
    ):
        with pytest.raises(ConflictError, match=r"There is a run mine already: its task was not sent again\. `beat"):
            send()
    assert lies_in_redis(installation) == before


def test_a_part_of_a_group_with_an_id_that_is_taken_names_what_was_sent_before_it(app: Any) -> None:
    note = app.tasks["ends.note"]
    note.apply_async((1, "", "a"), task_id="mine")
    parts = [note.s(number, "", "b").set(task_id=run_id) for number, run_id in enumerate(("new", "mine", "never"))]
    with pytest.raises(ConflictError, match=r"Sent before it in the same call, and not taken back: new\. "):
        group(parts).apply_async()


def test_an_id_whose_run_was_executed_is_refused(
    app: Any, installation: Installation, worker: StartWorker, tmp_path: Path
) -> None:
    note = app.tasks["ends.note"]
    note.apply_async((1, str(tmp_path), "a"), task_id="mine")
    worker("default", pool="solo", env=ENV)
    wait_until(lambda: installation.redis.hget(installation.keys.run("mine"), "state") == "ended")
    with pytest.raises(ConflictError):
        note.apply_async((2, str(tmp_path), "b"), task_id="mine")
    assert note.apply_async((3, str(tmp_path), "c")).get(timeout=10) == 3, "an id that is made is new"
    assert (tmp_path / "notes").read_text().split("\n") == ["a 1", "c 3", ""]


def test_who_lost_the_answer_does_not_meet_itself(make_settings: MakeSettings, installation: Installation) -> None:
    proxy = Proxy(installation.settings.redis_url)
    settings = make_settings(redis_url=proxy.url, task_modules=("support.ending_tasks",))
    reset = threading.Timer(0.5, proxy.resume, kwargs={"reset": True})
    try:
        with open_app(settings) as app:
            note = app.tasks["ends.note"]
            note.apply_async((0, "", "first"), task_id="first")
            proxy.drop_replies()
            reset.start()
            assert note.apply_async((1, "", "a"), task_id="mine").id == "mine"
    finally:
        reset.join()
        proxy.close()
    assert lies_in_redis(installation) == (3, 3, 2), "the second was taken, and sent again, as any message would be"


def test_what_is_sent_for_a_run_may_come_twice(app: Any, installation: Installation) -> None:
    for _ in range(2):
        with on_behalf_of_a_run():
            app.tasks["ends.note"].apply_async((1, "", "a"), task_id="follows")
    assert lies_in_redis(installation) == (2, 2, 1)
