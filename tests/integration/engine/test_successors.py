"""What a run calls when it ends is called once, however often the run is executed."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery.app.task import Context

from beatline.engine import headers as h
from beatline.engine.chords import keep_groups
from beatline.engine.given_ids import on_behalf_of_a_run
from beatline.engine.messages import list_key
from beatline.ledger.history import find_run
from beatline.ledger.states import RunState
from support import ending_tasks as tasks
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.processes import StartProcess, StartWorker
    from support.serving import MakeSettings

ENV = {"PYTHONPATH": str(Path(tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.ending_tasks",), lease_s=3.0, lease_renew_s=1.0)


def links(app: Any, folder: str) -> list[Any]:
    """A task, a chain with a chord in it, a group, and a chord."""

    def note(name: str) -> Any:
        return app.tasks["ends.note"].s(folder, name)

    total = app.tasks["ends.total"]
    return [
        note("alone"),
        chain(note("step"), chord([note("left"), note("right")], total.s(folder, "of a chain"))),
        group(note("one"), note("two")),
        chord([note("up"), note("down")], total.s(folder, "of a chord")),
    ]


ONCE = {"alone 1": 1, "step 1": 1, "left 1": 1, "right 1": 1, "of a chain 2": 1, "one 1": 1, "two 1": 1, "up 1": 1,
        "down 1": 1, "of a chord 2": 1}  # fmt: skip


@pytest.mark.proof
def test_links_published_by_two_attempts_run_once(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    recorder()
    doomed = worker("default", pool="solo", env={**ENV, "BEATLINE_TEST_FAILPOINT": "worker.returned"})
    folder, notes = str(tmp_path), tmp_path / "notes"
    run = app.tasks["ends.note"].apply_async((1, folder, "run"), link=links(app, folder))
    assert doomed.wait() == -9, "killed after its links were published, before its end"
    second = worker("default", concurrency=2, env=ENV)

    def ended() -> bool:
        with installation.engine.connect() as conn:
            return find_run(conn, run.id).state is RunState.SUCCEEDED

    wait_until(ended, 20)
    wait_until(lambda: Counter(notes.read_text().splitlines()) == {**ONCE, "run 1": 2}, 10)
    wait_until(lambda: "message_dropped" in second.output(), what="what was published again was dropped")
    app.tasks["ends.heard"].delay().get(timeout=10)
    assert Counter(notes.read_text().splitlines()) == {**ONCE, "run 1": 2}


def published(app: Any, installation: Installation, request: Any) -> list[Any]:
    """What is in the queue after Celery has called the links of a run: per message its id, its group, and what follows."""
    keep_groups(request, app)
    parts = [app.signature(one) for one in request.callbacks]
    with on_behalf_of_a_run():
        for part in (one for one in parts if isinstance(one, group)):
            part.apply_async((1,))
        group([one for one in parts if not isinstance(one, group)], app=app).apply_async((1,))
    key = list_key(installation.keys, "default", 0)
    found: list[Any] = []
    while (payload := installation.redis.rpop(key)) is not None:
        message = json.loads(payload)
        embed = json.loads(base64.b64decode(message["body"]))[2]
        follows = [[one["options"]["task_id"], _ids(one["kwargs"])] for one in embed["chain"] or ()]
        found.append([message["headers"]["id"], bool(embed["chord"]) and message["headers"]["group"], follows])
    return found


def _ids(kwargs: dict[str, Any]) -> list[str]:
    """The ids in a chord that follows: its header was frozen, and is a group."""
    return [one["options"]["task_id"] for one in (*kwargs["header"]["kwargs"]["tasks"], kwargs["body"])]


def test_every_id_and_every_chord_s_group_is_the_same_when_links_are_published_again(
    app: Any, installation: Installation
) -> None:
    app.tasks["ends.note"].apply_async((1, "", "run"), link=links(app, ""), task_id="r1")
    message = json.loads(installation.redis.rpop(list_key(installation.keys, "default", 0)))
    callbacks = json.loads(base64.b64decode(message["body"]))[2]["callbacks"]
    first, second = (
        published(app, installation, Context({"id": "r1", "callbacks": json.loads(json.dumps(callbacks))}))
        for _ in range(2)
    )
    assert len(first) == 6
    assert first == second
    assert len({one[0] for one in first}) == 6
    assert sum(bool(one[1]) for one in first) == 2, "the two parts of the chord that is a link itself"
    assert sum(bool(one[2]) for one in first) == 1


def test_whatever_links_a_chain_or_a_group_gets_them_named(app: Any, installation: Installation) -> None:
    note = app.tasks["ends.note"]
    link, errback = note.si(1, "", "link"), note.si(1, "", "errback")
    chain(note.si(1, "", "a"), note.si(1, "", "b")).apply_async(link=link, link_error=errback)
    first = json.loads(installation.redis.rpop(list_key(installation.keys, "default", 0)))
    embed = json.loads(base64.b64decode(first["body"]))[2]
    assert embed["errbacks"][0]["options"]["task_id"]
    last = app.signature(embed["chain"][0])
    ids: list[tuple[str, str]] = []
    for _ in range(2):
        with on_behalf_of_a_run():
            last.apply_async()
        message = json.loads(installation.redis.rpop(list_key(installation.keys, "default", 0)))
        told = json.loads(base64.b64decode(message["body"]))[2]
        assert message["headers"][h.RUN_ID] == last.id
        ids.append((told["callbacks"][0]["options"]["task_id"], told["errbacks"][0]["options"]["task_id"]))
    assert ids[0] == ids[1]
    assert ids[0][1] != embed["errbacks"][0]["options"]["task_id"], "each step has its own"
    assert "task_id" not in link.options
    assert "task_id" not in errback.options
