"""Real workers: every run has its attempts told to the ledger, through retries, replacement, canvas and death."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TimeoutError as CeleryTimeoutError

from beatline.clock import monotonic_s
from beatline.engine import headers as h
from beatline.engine.messages import list_key
from beatline.errors import MessageTooLargeError, ResultNotKeptError, UnknownQueueError
from beatline.installation import Installation
from beatline.ledger.events import FIELD
from support import run_tasks as tasks
from support.apps import close
from support.pools import only_with_gevent
from support.processes import StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

TESTS = Path(tasks.__file__).parents[1]
ENV = {"PYTHONPATH": str(TESTS)}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks",), lease_s=3.0, lease_renew_s=1.0)


def told(installation: Installation) -> dict[str, list[tuple[int, str]]]:
    """Per run what the ledger was told, in order: (attempt, kind)."""
    runs: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for _, entry in installation.redis.xrange(installation.keys.events):
        event = json.loads(entry[FIELD])
        if "began" in event and (event["attempt"], "started") not in runs[event["run_id"]]:  # it travels with its end
            runs[event["run_id"]].append((event["attempt"], "started"))
        if (event["attempt"], event["kind"]) not in runs[event["run_id"]]:  # a start may be told twice, which is once
            runs[event["run_id"]].append((event["attempt"], event["kind"]))
    return runs


def was_told(installation: Installation, run_id: str, what: tuple[int, str]) -> bool:
    return what in told(installation)[run_id]


def facts(installation: Installation, run_id: str, kind: str) -> dict[str, Any]:
    """The event of a kind about a run."""
    for _, entry in installation.redis.xrange(installation.keys.events):
        event: dict[str, Any] = json.loads(entry[FIELD])
        if event["run_id"] == run_id and event["kind"] == kind:
            return event
    raise AssertionError(f"no {kind} event of {run_id}")


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_run_is_accepted_started_and_ended(
    app: Any, installation: Installation, worker: StartWorker, pool: str
) -> None:
    worker("default", pool=pool, env=ENV)
    good, bad, who = (
        app.tasks["test.add"].delay(2, 3),
        app.tasks["test.fail"].delay(password="hunter2"),
        tasks.whoami.delay(),
    )

    assert good.get(timeout=10) == 5
    with pytest.raises(RuntimeError, match="on purpose"):
        bad.get(timeout=10)
    seen = who.get(timeout=10)
    assert seen["run_id"] == who.id
    assert seen["attempt"] == 1
    assert seen["fence"] > 0
    assert seen["queue"] == "default"

    wait_until(lambda: told(installation)[who.id][-1:] == [(1, "succeeded")])
    assert told(installation)[good.id] == [(1, "accepted"), (1, "started"), (1, "succeeded")]
    assert told(installation)[bad.id] == [(1, "accepted"), (1, "started"), (1, "failed")]
    assert facts(installation, good.id, "succeeded")["result"] == "5"
    failed = facts(installation, bad.id, "failed")
    assert "on purpose" in failed["error"]
    assert "RuntimeError" in failed["traceback"]
    assert "hunter2" not in facts(installation, bad.id, "accepted")["kwargs_shown"]
    assert installation.redis.zcard(installation.keys.leases) == 0


def test_a_retry_is_another_attempt_of_the_same_run(app: Any, installation: Installation, worker: StartWorker) -> None:
    worker("default", env=ENV)
    result = app.tasks["test.flaky"].delay(2)
    assert result.get(timeout=10) == 3
    wait_until(lambda: (3, "succeeded") in told(installation)[result.id])
    assert sorted(told(installation)[result.id]) == [
        (1, "accepted"), (1, "retried"), (1, "started"),
        (2, "accepted"), (2, "retried"), (2, "started"),
        (3, "accepted"), (3, "started"), (3, "succeeded"),
    ]  # fmt: skip


def test_retries_used_up_are_dead_with_the_reason(app: Any, installation: Installation, worker: StartWorker) -> None:
    worker("default", env=ENV)
    result = app.tasks["test.flaky"].delay(99)
    with pytest.raises(ValueError, match="not yet"):
        result.get(timeout=10)
    wait_until(lambda: (4, "dead") in told(installation)[result.id])
    assert facts(installation, result.id, "dead")["reason"] == "its 3 retries are used up"


@pytest.mark.parametrize("task", ["test.replace", "test.replace_foreign"])
def test_a_replacement_keeps_the_run_id(app: Any, installation: Installation, worker: StartWorker, task: str) -> None:
    from celery import chain, group

    worker("default", env=ENV)
    add = app.tasks["test.add"]
    for replacement, expected in (
        (add.s(3, 4), 7),
        (chain(add.s(1, 2), add.s(3), add.s(4)), 10),
        (group(add.s(1, 1), add.s(2, 2)), [2, 4]),
    ):
        result = app.tasks[task].delay(replacement)
        assert result.get(timeout=10) == expected
        wait_until(partial(was_told, installation, result.id, (2, "succeeded")))
        assert told(installation)[result.id].count((1, "replaced")) == 1


def test_chains_groups_and_chords_run_unchanged(app: Any, installation: Installation, worker: StartWorker) -> None:
    from celery import chain, chord, group

    worker("default", concurrency=2, env=ENV)
    add = app.tasks["test.add"]
    assert chain(add.s(1, 2), add.s(3)).delay().get(timeout=10) == 6
    assert group(add.s(i, i) for i in range(4)).delay().get(timeout=10) == [0, 2, 4, 6]
    assert chord((add.s(i, i) for i in range(3)), add.si(5, 5)).delay().get(timeout=10) == 10
    wait_until(lambda: all(kinds[-1][1] == "succeeded" for kinds in told(installation).values()))
    assert all(len(kinds) == 3 for kinds in told(installation).values())


def test_a_message_given_back_is_the_next_attempt(app: Any, installation: Installation, worker: StartWorker) -> None:
    worker("default", env=ENV)
    again, unfit = app.tasks["test.requeue"].delay(), app.tasks["test.reject"].delay()
    assert again.get(timeout=10) == 2
    wait_until(lambda: (2, "succeeded") in told(installation)[again.id] and (1, "dead") in told(installation)[unfit.id])
    assert (1, "returned") in told(installation)[again.id]
    assert facts(installation, unfit.id, "dead")["reason"] == "the task rejected its message"


def test_the_same_message_twice_runs_once(
    app: Any, installation: Installation, worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    hold = app.tasks["test.hold"]
    first = hold.apply_async((str(tmp_path),), task_id="twice")
    queue = list_key(installation.keys, "default", 0)
    installation.redis.lpush(queue, *installation.redis.lrange(queue, 0, -1))
    worker("default", env=ENV)
    assert first.get(timeout=10) == "held"
    wait_until(lambda: not installation.redis.hlen(f"{installation.settings.key_prefix}unacked"))
    assert (tmp_path / "done").read_text() == "twice 1\n"


@pytest.mark.parametrize("pool", ["prefork", pytest.param("gevent", marks=(only_with_gevent, pytest.mark.proof))])
def test_a_worker_that_stops_gives_up_what_it_has_not_begun(
    app: Any, installation: Installation, worker: StartWorker, tmp_path: Path, pool: str
) -> None:
    stopping = worker("default", pool=pool, arguments=("--prefetch-multiplier", "4"), env=ENV)
    held = [app.tasks["test.hold"].delay(str(tmp_path)) for _ in range(4)]
    wait_until(lambda: (tmp_path / "begun").exists() and installation.redis.zcard(installation.keys.leases) == 4)
    stopping.send(signal.SIGTERM)
    if pool == "gevent":  # whose loop looks at a signal between two waits for a message, and executes runs until then
        since = monotonic_s()
        wait_until(lambda: monotonic_s() > since + 4)
    (tmp_path / "go").touch()
    assert stopping.wait() == 0

    keys = installation.keys
    ended = [line.split()[0] for line in (tmp_path / "done").read_text().splitlines()]
    assert 1 <= len(ended) < 4
    for run_id in {result.id for result in held} - set(ended):
        record = installation.redis.hgetall(keys.run(run_id))
        expired = record["state"] == "leased" and installation.redis.zscore(keys.leases, run_id) == 0
        assert expired or (record["state"], record["attempt"]) == ("closed", "0")
        assert record["begun"] == "0"


def test_a_killed_pool_process_gives_its_lease_up_at_once(
    app: Any, installation: Installation, worker: StartWorker, tmp_path: Path
) -> None:
    worker("default", env=ENV)
    result = app.tasks["test.die"].delay(str(tmp_path))
    keys = installation.keys
    wait_until(lambda: installation.redis.zscore(keys.leases, result.id) == 0)
    record = installation.redis.hgetall(keys.run(result.id))
    assert (record["state"], record["begun"]) == ("leased", "1")
    assert "signal 9" in record["lost_reason"]


def test_pool_processes_die_with_their_worker(
    app: Any, installation: Installation, worker: StartWorker, tmp_path: Path
) -> None:
    if os.uname().sysname != "Linux":
        pytest.skip("only Linux can tie a process to its parent")
    doomed = worker("default", env=ENV)
    app.tasks["test.hold"].delay(str(tmp_path))
    begun = tmp_path / "begun"
    wait_until(lambda: begun.exists() and begun.read_text().endswith("\n"))
    child = int(begun.read_text().split()[-1])
    doomed.send(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{child}").exists(), what="the pool process is gone")


def test_an_unknown_task_is_dead_with_what_to_do(app: Any, installation: Installation, worker: StartWorker) -> None:
    worker("default", env=ENV)
    result = app.send_task("nowhere.at_all", queue="default")
    wait_until(lambda: told(installation)[result.id][-1:] == [(1, "dead")])
    assert "BEATLINE_TASK_MODULES" in facts(installation, result.id, "dead")["reason"]


def test_a_stock_producer_s_run_is_recorded_and_its_secrets_masked(
    app: Any, installation: Installation, worker: StartWorker
) -> None:
    from celery import Celery

    stock = Celery("stock", broker=installation.settings.redis_url, set_as_current=False)
    stock.conf.broker_transport_options = {"global_keyprefix": installation.settings.key_prefix}
    worker("default", env=ENV)
    sent = stock.send_task("test.fail", kwargs={"password": "hunter2"}, queue="default", routing_key="default",
                           exchange="")  # fmt: skip
    close(stock)
    wait_until(lambda: told(installation)[sent.id][-1:] == [(1, "failed")])
    accepted = facts(installation, sent.id, "accepted")
    assert "hunter2" not in accepted["kwargs_shown"]
    assert json.loads(accepted["message"])["headers"][h.ATTEMPT] == 1


def test_the_highest_priority_runs_first(
    app: Any, installation: Installation, worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    for priority in (0, 3, 9, None, 6):
        app.tasks["test.hold"].apply_async((str(tmp_path),), task_id=f"p{priority}", priority=priority)
    worker("default", env=ENV)
    wait_until(lambda: (tmp_path / "done").exists() and len((tmp_path / "done").read_text().splitlines()) == 5)
    order = [line.split()[0] for line in (tmp_path / "done").read_text().splitlines()]
    assert order[:3] == ["p9", "p6", "p3"]
    assert set(order[3:]) == {"p0", "pNone"}


def test_a_queue_that_nothing_declares_is_an_error_at_the_caller(app: Any, installation: Installation) -> None:
    with pytest.raises(UnknownQueueError, match=r"no queue 'emial'.*collect.*BEATLINE_QUEUES"):
        app.tasks["test.add"].apply_async((1, 2), queue="emial")
    assert told(installation) == {}


def test_a_message_that_is_too_large_is_an_error_at_the_caller(app: Any, installation: Installation) -> None:
    with pytest.raises(MessageTooLargeError, match=r"test\.add.*nothing was sent"):
        app.tasks["test.add"].delay("x" * 300_000, 1)
    assert told(installation) == {}
    assert installation.redis.llen(list_key(installation.keys, "default", 0)) == 0


def test_a_result_that_was_not_kept_says_so(app: Any, installation: Installation, worker: StartWorker) -> None:
    worker("default", env=ENV)
    ignored = app.tasks["test.forget"].delay()
    with pytest.raises(ResultNotKeptError, match="ignore_result=False"):
        ignored.get(timeout=5)
    wait_until(lambda: (1, "succeeded") in told(installation)[ignored.id])
    with pytest.raises(ResultNotKeptError, match=ignored.id):
        app.AsyncResult(ignored.id).get(timeout=5)


def test_a_task_that_failed_with_a_time_out_has_failed(app: Any, worker: StartWorker) -> None:
    worker("default", env=ENV)
    with pytest.raises(CeleryTimeoutError, match="of its own"):
        app.tasks["test.raises"].delay("waited").get()
