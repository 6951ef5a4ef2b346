"""etl.run_job and etl.archive in a real worker, their ends in the real ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from beatline.app import create_app
from beatline.definitions.lock import definition_lock
from beatline.errors import NotFoundError
from beatline.ledger.history import Run, find_run
from beatline.ledger.states import RunState
from beatline.task.context import RunContext
from support.apps import close
from support.processes import StartProcess, StartWorker
from support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Rows = Callable[..., list[dict[str, Any]]]
Execute = Callable[[str], None]


class Send(Protocol):
    """Sends a task; `log` is what the worker prints."""

    log: Path

    def __call__(self, task: str, job: Any) -> Run: ...


@pytest.fixture
def send(open_installation: Installation, worker: StartWorker, recorder: StartProcess) -> Iterator[Send]:
    """Sends a task to a worker of the queue etl, and returns the run once it has its end."""
    settings = open_installation.settings
    recorder(settings=settings)
    spawned = worker("etl", settings=settings)
    app: Celery = create_app(settings)
    yield _Sender(app, open_installation, spawned.log)
    close(app)


@dataclass
class _Sender:
    app: Celery
    installation: Installation
    log: Path

    def __call__(self, task: str, job: Any) -> Run:
        run_id = str(self.app.send_task(task, (job,)).id)

        def look() -> Run | None:
            try:
                with self.installation.engine.connect() as conn:
                    found = find_run(conn, run_id)
            except NotFoundError:
                return None
            return found if found.ended_at else None

        found = wait_until(look, 30, what=f"run {run_id} ends")
        assert found is not None
        return found


def test_runs_end_as_they_should(
    send: Send, add_job: AddJob, execute: Execute, rows: Rows, open_installation: Installation
) -> None:
    execute("CREATE TABLE feed AS SELECT n AS id, now() - interval '3 days' AS at FROM generate_series(1, 7) n")
    job = add_job("copy", input={"dataset": "feed"}, output={"table": "copy", "mode": "upsert", "key": ["id"]})
    done = send("etl.run_job", "copy")
    assert (done.state, done.queue) == (RunState.SUCCEEDED, "etl")
    assert done.result is not None
    assert "'in': 7, 'out': 7, 'rejected': 0, 'new': 7" in done.result
    with definition_lock(open_installation.engine, job, RunContext("another", 1, 0, "etl.run_job", "etl", None, None)):
        assert send("etl.run_job", str(job.id)).result == "'busy'"
    add_job("old", archive={"dataset": "feed", "time_column": "at"})
    archived = send("etl.archive", "old")
    assert archived.state == RunState.SUCCEEDED
    assert rows("SELECT count(*) AS n FROM feed") == [{"n": 0}]
    assert rows("SELECT count(*) AS n FROM copy") == [{"n": 7}]


def test_what_a_person_must_mend_fails_at_once_and_is_logged(send: Send, add_job: AddJob, execute: Execute) -> None:
    execute("CREATE TABLE lines (at text)")
    add_job("old", archive={"dataset": "lines", "time_column": "at"})
    failed = send("etl.archive", "old")
    assert (failed.state, failed.attempt) == (RunState.FAILED, 1)
    assert "must be a date or a time stamp" in str(failed.error)
    line = next(line for line in send.log.read_text().splitlines() if "archive_failed" in line)
    assert "error" in line.lower()
    assert '"job": "old"' in line or "job=old" in line
    assert send("etl.run_job", 7).state == RunState.FAILED


def test_a_server_that_does_not_answer_is_tried_again(
    send: Send, add_job: AddJob, define: Callable[..., Any], rows: Rows, open_installation: Installation
) -> None:
    del send  # its worker is what is needed
    define("connection", "gone", {"url": "postgresql://127.0.0.1:1/shop", "user": "u"})
    add_job("copy", input={"connection": "gone", "table": "t"}, output={"table": "copy", "mode": "append"})
    app: Celery = create_app(open_installation.settings)
    run_id = str(app.send_task("etl.run_job", ("copy",)).id)
    tried = f"SELECT outcome, error FROM beatline.attempts WHERE run_id = '{run_id}' AND attempt = 1"  # noqa: S608
    wait_until(lambda: [row["outcome"] for row in rows(tried)] == ["retried"], 30, what="it is tried again")
    assert "it refuses the connection: no server listens there" in rows(tried)[0]["error"]
    close(app)
