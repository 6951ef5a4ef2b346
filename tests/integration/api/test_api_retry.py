"""A retry is a new run with exactly the arguments of the old one, over HTTP and on the command line."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, Final

import httpx
import pytest
from celery import chain, chord, signature
from sqlalchemy import select, text, update

from beatline.cli import root
from beatline.errors import ConflictError, NotFoundError, UnknownQueueError
from beatline.installation import Installation
from beatline.ledger.intake import Entry
from beatline.ledger.model import audit, runs
from beatline.ledger.retry import retry_run
from beatline.ledger.states import EventKind, RunState
from beatline.ledger.write import write
from beatline.settings import Settings
from support.beats import BeatView, body_of
from support.ledger import event, run_of, state_of
from support.problems import said
from support.processes import StartProcess, StartWorker, variables_of
from support.waiting import wait_until

PATH: Final = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
LONG: Final = {"text": "x" * 2000, "ünïcode": "字", "password": "hunter2", "nested": [1, {"a": None}]}


def drain(installation: Installation, *more: Any) -> None:
    """As a recorder does: what senders told, and these events."""
    told = [Entry(key, entry["e"]) for key, entry in installation.redis.xrange(installation.keys.events)]
    told += [Entry(f"9-{number}", one.to_json()) for number, one in enumerate(more)]
    installation.redis.delete(installation.keys.events)
    write(installation.engine, told, installation.keyring)


def ended(installation: Installation, run_id: str, kind: EventKind = EventKind.FAILED, **facts: Any) -> None:
    """The run has ended so, and nothing waits in its queue."""
    drain(installation, event(kind, run_id, fence=1, worker="w", **facts))
    for key in installation.redis.scan_iter(f"{installation.keys.queue('default')}*"):
        installation.redis.delete(key)


def test_it_has_exactly_the_arguments_that_the_old_one_had(
    app: Any, view: BeatView, installation: Installation, client: httpx.Client
) -> None:
    old = app.send_task("test.anything", [1, "zwei"], LONG, priority=7, countdown=0.01, expires=900).id
    ended(installation, old)
    answer = client.post(f"tasks/{old}/retry")
    assert answer.status_code == 202, answer.text
    told = answer.json()
    new = told["run_id"]
    assert (told["retry_of"], told["queued"], new != old) == (old, True, True)
    assert answer.headers["Location"] == f"/admin/celery/tasks/{new}"

    [message] = view.messages()
    head = message["headers"]
    assert body_of(message)[:2] == [[1, "zwei"], LONG]
    assert (head["id"], head["parent_id"], head["root_id"], head["bl_attempt"]) == (new, old, old, 1)
    assert (head["eta"], head["expires"], head["retries"], message["properties"]["priority"]) == (None, None, 0, 7)
    assert message["properties"]["correlation_id"] == new
    drain(installation)
    run = run_of(installation, new)
    assert (run.state, run.parent_id, run.attempt, run.task) == (RunState.QUEUED, old, 1, "test.anything")
    assert "hunter2" not in (run.kwargs_shown or "hunter2")
    assert run_of(installation, old).state is RunState.FAILED
    with installation.engine.connect() as conn:
        row = conn.execute(select(audit).where(audit.c.kind == "run")).mappings().one()
    assert (row["who"], row["action"], row["name"]) == ("token:ann", "retry", old)
    assert row["after"] == {"run_id": new, "task": "test.anything"}
    assert client.get(f"tasks/{old}").json()["retried_as"] == [new]


def test_only_one_retry_of_a_run_is_open_however_many_ask(app: Any, installation: Installation) -> None:
    old = app.send_task("test.add", [1, 2]).id
    ended(installation, old)
    together, told = Barrier(4), list[object]()

    def ask() -> None:
        together.wait(10)
        try:
            told.append(retry_run(installation, old, who="test").retried_as)
        except ConflictError as exc:
            told.append(exc)

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [new] = [one for one in told if isinstance(one, str)]
    assert all(f"is being retried already: run {new}" in str(one) for one in told if one != new)
    ended(installation, new)
    assert retry_run(installation, old, who="test").retried_as != new


def test_while_a_retry_of_a_retry_is_open_no_run_of_its_kin_is_retried(app: Any, installation: Installation) -> None:
    def again(run_id: str) -> str:
        return retry_run(installation, run_id, who="test").retried_as

    first = app.send_task("test.add", [1, 2]).id
    ended(installation, first)
    second = again(first)
    ended(installation, second)
    third = again(second)
    for run_id in (first, second):
        with pytest.raises(ConflictError, match=f"Run {run_id} is being retried already: run {third} is accepted"):
            again(run_id)
    ended(installation, third)
    fourth = again(first)  # beside the other branch, which has ended
    for run_id in (first, second, third):
        with pytest.raises(ConflictError, match=f"is being retried already: run {fourth}"):
            again(run_id)
    ended(installation, fourth)
    assert again(third)


def test_of_several_who_retry_runs_of_one_kin_at_once_one_does(app: Any, installation: Installation) -> None:
    kin = [app.send_task("test.add", [1, 2]).id]
    ended(installation, kin[0])
    for _ in range(3):
        kin.append(retry_run(installation, kin[-1], who="test").retried_as)
        ended(installation, kin[-1])
    together, told = Barrier(4), list[object]()

    def ask(run_id: str) -> None:
        together.wait(10)
        try:
            told.append(retry_run(installation, run_id, who="test").retried_as)
        except ConflictError as exc:
            told.append(exc)

    threads = [Thread(target=ask, args=(run_id,)) for run_id in kin]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [new] = [one for one in told if isinstance(one, str)]
    assert [f"is being retried already: run {new}" in str(one) for one in told if one != new] == [True] * 3


def test_a_run_that_a_retry_has_sent_on_is_no_kin_of_it(app: Any, installation: Installation) -> None:
    """Its parent is the retry, as for whatever a task sends: it can be retried beside another retry."""
    first = app.send_task("test.add", [1, 2]).id
    ended(installation, first)
    second = retry_run(installation, first, who="test").retried_as
    ended(installation, second)
    child = app.send_task("test.add", [3, 4], parent_id=second, root_id=first).id
    ended(installation, child)
    assert retry_run(installation, child, who="test")
    assert retry_run(installation, first, who="test")


def test_what_cannot_be_retried_is_refused_in_words(app: Any, installation: Installation, client: httpx.Client) -> None:
    old = app.send_task("test.add", [1, 2]).id
    drain(installation)
    assert "is queued: only a run that has ended" in said(client.post(f"tasks/{old}/retry"), 409)["detail"]
    ended(installation, old)
    with installation.engine.begin() as conn:
        conn.execute(update(runs).values(message=None))
    assert "was not kept" in said(client.post(f"tasks/{old}/retry"), 409)["detail"]
    with installation.engine.begin() as conn:
        conn.execute(update(runs).values(message=b"\x01\x02kkdamaged-and-long-enough"))
    assert "`beatline api`" in said(client.post(f"tasks/{old}/retry"), 503)["detail"]
    said(client.post("tasks/nothing/retry"), 404)
    with pytest.raises(NotFoundError):
        retry_run(installation, "nothing", who="test")
    with installation.engine.connect() as conn:
        assert conn.execute(select(audit.c.id).where(audit.c.kind == "run")).all() == []


def test_a_queue_that_is_no_more_takes_nothing(app: Any, installation: Installation) -> None:
    old = app.send_task("test.add", [1, 2]).id
    ended(installation, old)
    with installation.engine.begin() as conn:
        sealed = conn.execute(select(runs.c.message)).scalar_one()
        bound = f"run:{old}"
        message = json.loads(installation.keyring.decrypt(bytes(sealed), bound_to=bound))
        message["properties"]["delivery_info"]["routing_key"] = "gone"
        again = installation.keyring.encrypt(json.dumps(message).encode(), bound_to=bound)
        conn.execute(update(runs).values(message=again))
    with pytest.raises(UnknownQueueError, match="no queue 'gone'"):
        retry_run(installation, old, who="test")


def test_it_keeps_schedule_and_slot(view: BeatView, installation: Installation, client: httpx.Client) -> None:
    view.add("nightly", "test.add", cron="0 2 * * *", args=[1, 2])
    first = client.post("schedules/nightly/run-now").json()["run_id"]
    slot = "2026-11-22T02:00:00+00:00"
    with installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET slot = :slot"), {"slot": slot})
    ended(installation, first, schedule="nightly")
    new = run_of(installation, client.post(f"tasks/{first}/retry").json()["run_id"])
    assert new.slot is not None
    assert (new.schedule, new.slot.isoformat()) == ("nightly", slot)
    assert view.outcomes("nightly") == []


def test_a_broken_chain_goes_on_and_one_that_went_on_is_not_sent_twice(
    app: Any, view: BeatView, installation: Installation
) -> None:
    def embedded(kind: EventKind, canvas: Any) -> dict[str, Any]:
        canvas.apply_async()
        first = view.sent()[-1]
        ended(installation, first, kind)
        retry_run(installation, first, who="test")
        [message] = view.messages()
        ended(installation, message["headers"]["id"])
        found: dict[str, Any] = body_of(message)[2]
        return found

    def add(*numbers: int) -> Any:
        return signature("test.add", args=numbers, app=app)

    assert embedded(EventKind.FAILED, chain(add(1, 2), add(3)))["chain"][0]["task"] == "test.add"
    assert not embedded(EventKind.SUCCEEDED, chain(add(1, 2), add(3)))["chain"]
    assert embedded(EventKind.FAILED, chord([add(1, 2)], add(3)))["chord"] is None
    gc.collect()  # results of a canvas hold each other, and say good-bye to Redis when they go


def test_without_redis_the_run_stands_and_says_so(app: Any, installation: Installation, make_settings: Any) -> None:
    old = app.send_task("test.add", [1, 2]).id
    ended(installation, old)
    away = Installation(make_settings(redis_url="redis://127.0.0.1:1/0", secret_keys=_keys(installation)))
    retried = retry_run(away, old, who="test")
    assert not retried.queued
    assert run_of(installation, retried.retried_as).state is RunState.ACCEPTED


def _keys(installation: Installation) -> str:
    keys = installation.settings.secret_keys
    assert keys is not None
    return keys.get_secret_value()


def test_on_real_workers_it_does_what_the_first_one_did(
    app: Any, installation: Installation, settings: Settings, worker: StartWorker, recorder: StartProcess,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)
    recorder()
    worker("default", pool="solo", env={"PYTHONPATH": PATH})
    old = app.send_task("test.add", [1, "2"]).id  # a number and a text: fails
    wait_until(lambda: state_of(installation, old) is RunState.FAILED, what="it fails")
    with pytest.raises(SystemExit) as done:
        root.run(["runs", "retry", old[:8], "--json"])
    assert done.value.code == 0
    new = json.loads(capsys.readouterr().out)["retried_as"]
    wait_until(lambda: state_of(installation, new) is RunState.FAILED, what="the retry has run too")
    assert run_of(installation, new).error == run_of(installation, old).error
    with pytest.raises(SystemExit):
        root.run(["runs", "show", old])
    assert f"It was retried as {new}." in capsys.readouterr().err
