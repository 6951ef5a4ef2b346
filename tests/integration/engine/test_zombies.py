"""A worker that was frozen and comes back: what it would have told is refused, with its end."""

from __future__ import annotations

import os
import pickle
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain
from sqlalchemy import text

from beatline.embedded.ports import free_port
from beatline.engine import headers as h
from beatline.engine import patience
from beatline.installation import Installation
from beatline.ledger.states import EventKind
from beatline.task import guard
from support import ending_tasks as tasks
from support.apps import open_app
from support.ledger import state_of
from support.pools import POOLS
from support.sizes import ROOT
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.processes import Spawned, StartProcess, StartWorker
    from support.servers import Server
    from support.serving import MakeSettings

pytestmark = pytest.mark.proof

ENV = {"PYTHONPATH": str(Path(tasks.__file__).parents[1])}

REFUSED = "SELECT refused_fences FROM beatline.attempts WHERE run_id = :id AND attempt = 1"
OUTCOME = "SELECT attempt, outcome FROM beatline.attempts WHERE run_id = :id ORDER BY attempt"


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.ending_tasks",), lease_s=3.0, lease_renew_s=1.0)


def lines(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().splitlines() if file.exists() else []


class Overtaken:
    """A worker that was frozen while it held a run, and another that executes the run meanwhile."""

    def __init__(self, installation: Installation, worker: StartWorker, folder: Path, pool: str) -> None:
        self._installation, self._worker, self._folder, self._pool = installation, worker, folder, pool
        self._zombie = worker("default", pool=pool, env=ENV)
        self._second: Spawned | None = None

    def freeze(self, run_id: str, until: Callable[[], bool] | None = None) -> None:
        """Freeze it once it has said that it executes the run, and wait until the other does, or `until` something else."""
        record = self._installation.keys.run(run_id)
        wait_until(lambda: lines(self._folder, "begun") and self._installation.redis.hget(record, "begun") == "1")
        os.killpg(self._zombie.pid, signal.SIGSTOP)
        self._second = self._worker("default", pool=self._pool, env=ENV)
        wait_until(until or (lambda: len(lines(self._folder, "begun")) == 2), 20)
        (self._folder / "go").touch()

    def return_(self, run_id: str) -> None:
        """Let the frozen one go on, until its end was refused."""
        os.killpg(self._zombie.pid, signal.SIGCONT)
        wait_until(
            lambda: self._asked(REFUSED, run_id) not in ([], [([],)]), what="the late end is recorded as refused"
        )

    def outcomes(self, run_id: str) -> list[Any]:
        """What became of the run's attempts, once all of them have an end."""
        return wait_until(lambda: [tuple(row) for row in self._asked(OUTCOME, run_id) if row[1]])

    def _asked(self, statement: str, run_id: str) -> list[Any]:
        with self._installation.engine.connect() as conn:
            return [tuple(row) for row in conn.execute(text(statement), {"id": run_id})]

    def has_published_nothing(self, app: Any) -> bool:
        """Whether no message met a claim: what a zombie publishes has the run ids of what was published before."""
        queue = [app.tasks["ends.heard"].delay() for _ in range(4)]  # what was published before them is dropped by now
        for result in queue:
            result.get(timeout=20)
        assert self._second is not None
        return not any("message_dropped" in one.output() for one in (self._zombie, self._second))


@pytest.mark.proof
@pytest.mark.parametrize("pool", POOLS)
def test_a_late_end_is_refused_with_its_result_its_link_and_its_chain(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str
) -> None:
    recorder()
    overtaken = Overtaken(installation, worker, tmp_path, pool)
    folder = str(tmp_path)
    first = app.tasks["ends.hold"].s(folder).set(link=app.tasks["ends.note"].s(folder, "link"))
    last: Any = chain(first, app.tasks["ends.note"].s(folder, "next")).apply_async()
    run = last.parent
    overtaken.freeze(run.id)
    assert last.get(timeout=20) == 2
    overtaken.return_(run.id)
    assert overtaken.has_published_nothing(app)
    assert run.get(timeout=5) == 2, "the result is the second runner's"
    assert sorted(lines(tmp_path, "notes")) == ["link 2", "next 2"]
    assert overtaken.outcomes(run.id) == [(1, "lost"), (2, "succeeded")]


@pytest.mark.proof
@pytest.mark.parametrize(
    ("pool", "task"),
    [
        ("prefork", "ends.hold"), ("prefork", "ends.hold_and_replace"), ("prefork", "ends.retry"),
        ("prefork", "ends.retry_foreign"), ("threads", "ends.hold"), ("threads", "ends.hold_and_replace"),
        ("threads", "ends.retry"),
    ],
)  # fmt: skip
def test_a_late_failure_a_late_replacement_and_a_late_retry_call_nobody(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path, pool: str,
    task: str,
) -> None:  # fmt: skip
    recorder()
    overtaken = Overtaken(installation, worker, tmp_path, pool)
    folder = str(tmp_path)
    fails = {"fails": 1} if task == "ends.hold" else {}
    run = app.tasks[task].apply_async((folder,), fails, link_error=app.tasks["ends.note"].si(0, folder, "errback"))
    overtaken.freeze(run.id)
    assert run.get(timeout=20) == 2
    overtaken.return_(run.id)
    assert overtaken.has_published_nothing(app)
    assert run.get(timeout=5) == 2
    assert lines(tmp_path, "notes") == (["heir 2"] if task == "ends.hold_and_replace" else [])


@pytest.mark.proof
@pytest.mark.parametrize("countdown_s", [0, 120], ids=["queued", "delayed"])
def test_a_run_that_was_buried_stays_dead_whatever_its_worker_asks_for_when_it_is_back(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path, countdown_s: int
) -> None:
    recorder()
    overtaken = Overtaken(installation, worker, tmp_path, "prefork")
    run = app.tasks["ends.retry_parks"].delay(str(tmp_path), countdown_s)
    overtaken.freeze(run.id, until=lambda: state_of(installation, run.id) == "dead")
    overtaken.return_(run.id)
    assert overtaken.has_published_nothing(app)
    assert (state_of(installation, run.id), lines(tmp_path, "begun")) == ("dead", ["1"])
    assert overtaken.outcomes(run.id) == [(1, "dead")]


@pytest.mark.proof
def test_the_readme_s_guarded_write_is_refused_to_a_zombie(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path
) -> None:
    (statement,) = re.findall(r"UPDATE orders .* AND fence [<=]+ :fence", (ROOT / "README.md").read_text("utf-8"))
    with installation.engine.begin() as conn:
        conn.execute(text("CREATE TABLE orders (id int PRIMARY KEY, total int, fence bigint NOT NULL DEFAULT 0)"))
        conn.execute(text("INSERT INTO orders (id) VALUES (1)"))
    recorder()
    overtaken = Overtaken(installation, worker, tmp_path, "prefork")
    run = app.tasks["ends.write"].delay(str(tmp_path), installation.settings.database_url, statement)
    overtaken.freeze(run.id)
    wait_until(lambda: lines(tmp_path, "written") == ["2 1 1"], what="the second runner writes, and may write again")
    overtaken.return_(run.id)
    assert lines(tmp_path, "written") == ["2 1 1", "1 0 0"]
    with installation.engine.connect() as conn:
        assert conn.execute(text("SELECT total FROM orders")).scalar() == 2


@pytest.mark.parametrize(
    ("task", "asked"), [("ends.quiet", 0), ("ends.heard", 10), ("ends.deep", 10), ("ends.called", 10)]
)
def test_only_who_has_something_to_tell_asks_once_more(
    make_settings: MakeSettings, own_redis: Server, worker: StartWorker, task: str, asked: int
) -> None:
    settings = make_settings(
        task_modules=("support.ending_tasks",), redis_url=own_redis.url, result_url=own_redis.url, queues=()
    )
    with open_app(settings) as app:
        worker("default", pool="solo", env=ENV, settings=settings)
        redis = app.conf["beatline"].redis
        with redis.monitor() as monitor:
            sent = [app.tasks[task].delay().id for _ in range(10)]
            keys = app.conf["beatline"].keys
            wait_until(lambda: all(redis.hget(keys.run(run_id), "state") == "ended" for run_id in sent))
            redis.echo("that was all")
            seen: list[Any] = []
            while not seen or "that was all" not in seen[-1]["command"]:
                seen.append(monitor.next_command())
    by_clients = [one["command"] for one in seen if one["client_type"] != "lua"]
    assert sum(command.startswith("HMGET") for command in by_clients) == asked
    assert sum("run:" in command and command.startswith("EVALSHA") for command in by_clients) >= 20, "claims and ends"


@pytest.mark.proof
def test_an_end_that_is_to_be_published_waits_for_redis(
    make_settings: MakeSettings, own_redis: Server, worker: StartWorker, tmp_path: Path
) -> None:
    settings = make_settings(
        task_modules=("support.ending_tasks",), redis_url=own_redis.url, result_url=own_redis.url, lease_s=3.0,
        lease_renew_s=1.0,
    )  # fmt: skip
    with open_app(settings) as app:
        running = worker("default", env=ENV, settings=settings)
        folder = str(tmp_path)
        run = app.tasks["ends.hold"].apply_async((folder,), link=app.tasks["ends.note"].s(folder, "link"))
        wait_until(lambda: lines(tmp_path, "begun"))
        own_redis.stop()
        (tmp_path / "go").touch()
        running.wait_for("end_waits_for_redis")
        own_redis.start()
        wait_until(lambda: lines(tmp_path, "notes") == ["link 1"], 20)
        state = app.conf["beatline"].keys.run(run.id)
        wait_until(lambda: app.conf["beatline"].redis.hget(state, "state") == "ended", 20)
        assert run.get(timeout=10) == 1


def test_whose_lease_it_is_cannot_be_told_without_redis(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", -1.0)
    absent = Installation(make_settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    request = SimpleNamespace(id="r1", called_directly=False, is_eager=False, get={h.FENCE: 7}.get)
    app = SimpleNamespace(conf={"beatline": absent})
    with pytest.raises(guard.LeaseLost) as lost:
        guard.ask(SimpleNamespace(request=request, app=app, name="t"), EventKind.SUCCEEDED)
    again = pickle.loads(pickle.dumps(lost.value))  # noqa: S301  # as a pool process sends it home
    assert (again.how, again.known) == (EventKind.SUCCEEDED, False)
