"""BEATLINE_ACCEPT=postgres: a plain `.delay()` stands in PostgreSQL before it is in a queue."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain

from beatline.client import accepting
from beatline.clock import monotonic_s
from beatline.embedded.ports import free_port
from beatline.engine.encoding import UnencodableError
from beatline.errors import ArgumentsError, ConflictError, MessageTooLargeError
from beatline.installation import Installation
from support import run_tasks
from support.apps import open_app
from support.ledger import rows, run_row, waiting
from support.processes import StartProcess, StartWorker
from support.servers import Server
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",), accept="postgres")


@pytest.fixture
def app(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(accepting, "_away_until", {})
    with open_app(installation.settings) as app:
        yield app


def standing(installation: Installation) -> dict[str, str]:
    with installation.engine.connect() as conn:
        return {row["id"]: row["state"] for row in rows(conn, "runs")}


def test_the_row_is_there_first_and_the_message_is_the_same(app: Any, installation: Installation) -> None:
    app.tasks["test.add"].apply_async((1, 2), task_id="r1", queue="heavy", priority=7, expires=60)
    app.send_task("test.known_only_by_name", (3,), task_id="r2")
    assert standing(installation) == {"r1": "accepted", "r2": "accepted"}
    [sent] = waiting(installation, "heavy")
    assert (sent.run_id, sent.priority) == ("r1", 7)
    with installation.engine.connect() as conn:
        row = run_row(conn, "r1")
    assert (row["queue"], row["priority"], row["expires"] is None) == ("heavy", 7, False)


def test_what_is_wanted_later_is_in_no_queue_and_in_no_stream(app: Any, installation: Installation) -> None:
    app.tasks["test.add"].apply_async((1, 2), task_id="r1", countdown=3600)
    assert standing(installation) == {"r1": "delayed"}
    assert waiting(installation) == []
    assert installation.redis.xlen(installation.keys.events) == 0


def test_what_is_refused_leaves_nothing(app: Any, installation: Installation) -> None:
    add = app.tasks["test.add"]
    for args, error in (
        ((1,), ArgumentsError),
        ((1, object()), UnencodableError),
        ((1, "x" * 10_000_000), MessageTooLargeError),
    ):
        with pytest.raises(error, match=r"'test\.add'"):
            add.delay(*args)
    assert standing(installation) == {}
    add.apply_async((1, 2), task_id="r1")
    with pytest.raises(ConflictError, match="A run 'r1' was accepted before"):
        add.apply_async((3, 4), task_id="r1")
    assert len(waiting(installation)) == 1


@pytest.mark.parametrize("accept", ["redis", "postgres"])
def test_what_celery_accepted_is_refused_the_same_way_by_either(
    make_settings: MakeSettings, accept: str, installation: Installation
) -> None:
    with open_app(make_settings(task_modules=("support.run_tasks",), accept=accept)) as app:
        deep: list[Any] = []
        for _ in range(20_000):
            deep = [deep]
        for wrong in (object(), deep):
            with pytest.raises(UnencodableError, match=r"'test\.add' was not accepted"):
                app.tasks["test.add"].delay(1, wrong)
        with pytest.raises(TypeError, match=r"'test\.flaky' was not accepted: argument 'failures' is missing"):
            app.tasks["test.flaky"].delay()  # of a class that is not ours
        assert waiting(installation) == []
        assert standing(installation) == {}


def test_an_absent_redis_is_no_reason_to_refuse(
    make_settings: MakeSettings, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "_away_until", {})
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    away = make_settings(redis_url=nobody, result_url=nobody, task_modules=("support.run_tasks",), accept="postgres")
    with open_app(away) as app:
        began = monotonic_s()
        app.tasks["test.add"].apply_async((1, 2), task_id="r1")
        assert monotonic_s() - began < 3.0
        began = monotonic_s()
        app.tasks["test.add"].apply_async((1, 2), task_id="r2")
        assert monotonic_s() - began < 1.0, "who comes next does not wait for it again"
    assert standing(installation) == {"r1": "accepted", "r2": "accepted"}


def test_a_frozen_redis_bounds_the_caller_and_the_run_stands(
    make_settings: MakeSettings, own_redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "_away_until", {})
    settings = make_settings(
        redis_url=own_redis.url, result_url=own_redis.url, task_modules=("support.run_tasks",), accept="postgres"
    )
    installation = Installation(settings)
    with open_app(settings) as app:
        pid = int(installation.redis.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        began = monotonic_s()
        try:
            app.tasks["test.add"].apply_async((1, 2), task_id="r1")
            assert monotonic_s() - began < 3.0
        finally:
            os.kill(pid, signal.SIGCONT)
    assert standing(installation) == {"r1": "accepted"}
    installation.redis.close()


@pytest.mark.proof
def test_a_worker_publishes_its_successors_without_postgresql(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess
) -> None:
    """The tables are out of reach of who would accept by them: their chain and retry go on, told by Redis alone."""
    worker(env=ENV)
    result: Any = chain(app.tasks["test.add"].s(1, 2), app.tasks["test.add"].s(3)).apply_async(task_id="last")
    flaky = app.tasks["test.flaky"].apply_async((1,), task_id="flaky")
    assert set(standing(installation)) == {result.parent.id, "flaky"}, "the second step is its worker's to send"
    wait_until(lambda: installation.redis.xlen(installation.keys.events) >= 6, 20, what="both have run")
    assert set(standing(installation)) == {result.parent.id, "flaky"}
    recorder()
    wait_until(lambda: set(standing(installation).values()) == {"succeeded"}, 20, what="all have ended")
    assert set(standing(installation)) == {result.parent.id, "last", flaky.id}
