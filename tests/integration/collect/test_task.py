"""collect.execute_task in a real worker, its end in the real ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from beatline.app import create_app
from beatline.clock import utc_now
from beatline.ledger.history import Run, find_run
from beatline.ledger.states import RunState
from support.apps import close
from support.ledger import known_run
from support.processes import StartProcess, StartWorker
from support.waiting import wait_until
from support.web import Asked, Reply, Web

if TYPE_CHECKING:
    from celery import Celery

    from beatline.definitions import Definition
    from beatline.installation import Installation

AddSource = Callable[..., "Definition"]
Execute = Callable[[Any], str]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def execute(
    open_installation: Installation, worker: StartWorker, recorder: StartProcess, add_source: AddSource, web: Web
) -> Iterator[Execute]:
    """Sends the task to a worker; the source `days` reads the test's web server."""
    settings = open_installation.settings
    add_source("days", type="http", url=f"{web.url}/days", format="json", key=["day"], columns={"day": "integer"})
    recorder(settings=settings)
    worker("collect", pool="threads", concurrency=2, settings=settings)
    app: Celery = create_app(settings)

    def send(source_id: Any) -> str:
        return str(app.send_task("collect.execute_task", (source_id,)).id)

    yield send
    close(app)


def ended(installation: Installation, run_id: str) -> Run:
    """The run, once it has its end."""

    def look() -> Run | None:
        run = known_run(installation, run_id)
        return run if run is not None and run.ended_at else None

    found = wait_until(look, 20, what=f"run {run_id} ends")
    assert found is not None
    return found


def test_a_run_goes_from_the_queue_into_the_dataset(
    web: Web, execute: Execute, open_installation: Installation
) -> None:
    web.answer = lambda _: Reply(json.dumps([{"day": n} for n in range(7)]).encode(), headers=JSON)
    run = ended(open_installation, execute("days"))
    assert run.state == RunState.SUCCEEDED
    assert run.queue == "collect"
    assert run.result is not None
    assert "'new': 7" in run.result
    assert web.asked[0].headers["beatline-run"] == run.id
    assert web.asked[0].headers["beatline-attempt"] == "1"


def test_what_may_pass_is_tried_again_as_the_next_attempt(
    web: Web, execute: Execute, open_installation: Installation
) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.headers["beatline-attempt"] == "1":
            return Reply(status=502)
        return Reply(b"[]", headers=JSON)

    web.answer = answer
    run = ended(open_installation, execute("days"))
    assert (run.state, run.attempt) == (RunState.SUCCEEDED, 2)
    assert [asked.headers["beatline-attempt"] for asked in web.asked] == ["1", "2"]


def test_a_source_that_asks_for_time_gets_it(web: Web, execute: Execute, open_installation: Installation) -> None:
    web.answer = lambda _: Reply(status=429, headers={"Retry-After": "120"})
    run_id = execute("days")

    def waiting() -> Run | None:
        with open_installation.engine.connect() as conn:
            run = find_run(conn, run_id) if web.asked else None
        return run if run is not None and run.attempt == 2 else None

    run = wait_until(waiting, 20, what="the second attempt waits")
    assert run is not None
    assert run.eta is not None
    assert 100 < (run.eta - utc_now()).total_seconds() <= 120
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("source_id", "words"),
    [("days", "answered 404 Not Found"), ("nights", "no source 'nights'"), (7, "by its name or its id as text, not 7")],
)
def test_what_a_person_must_mend_fails_at_once_in_words(
    web: Web, execute: Execute, open_installation: Installation, source_id: Any, words: str
) -> None:
    web.answer = lambda _: Reply(status=404)
    run = ended(open_installation, execute(source_id))
    assert (run.state, run.attempt) == (RunState.FAILED, 1)
    assert words in str(run.error)
    assert len(web.asked) == (1 if source_id == "days" else 0)
