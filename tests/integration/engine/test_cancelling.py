"""A run that was cancelled begins nothing any more, and ends as cancelled, whatever it was at and whatever dies meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord
from sqlalchemy import select

from beatline.clock import utc_today
from beatline.embedded.ports import free_port
from beatline.engine.claim import Claims, Dropped, Lease
from beatline.errors import ConflictError
from beatline.installation import Installation
from beatline.ledger.cancel import Cancelled, being_cancelled, cancel_run
from beatline.ledger.cancellations import Cancellations
from beatline.ledger.history import Run, attempts_of
from beatline.ledger.intake import Entry
from beatline.ledger.model import audit
from beatline.ledger.states import EventKind
from beatline.ledger.write import write
from support import run_tasks
from support.ledger import accepted, event, known_run, run_of, state_of
from support.pools import GEVENT, only_with_gevent
from support.processes import Spawn, StartProcess, StartWorker
from support.serving import MakeSettings
from support.waiting import wait_until

TESTS = str(Path(run_tasks.__file__).parents[1])
ENV = {"PYTHONPATH": os.pathsep.join(filter(None, (TESTS, os.environ.get("PYTHONPATH"))))}
QUICK = ENV | {"BEATLINE_TEST_CANCEL_GRACE_S": "0.5"}
pytestmark = [
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # of redis-py, by Celery
]

Cancel = Callable[..., Cancelled]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Any:
    return make_settings(task_modules=("support.run_tasks", "support.cancel_tasks"), lease_s=3.0, lease_renew_s=1.0)


@pytest.fixture
def cancel(installation: Installation, app: Any) -> Cancel:
    return partial(cancel_run, installation, who="ann@here", app=app)


def ends(installation: Installation, run_id: str, how: str = "cancelled", timeout_s: float = 10) -> Run:
    def ended() -> Run:
        found = known_run(installation, run_id)
        assert found is not None
        assert found.ended_at is not None, found.state
        return found

    run: Run = wait_until(ended, timeout_s)
    assert run.state == how, run
    return run


def known(installation: Installation, run_id: str, state: str) -> None:
    wait_until(lambda: state_of(installation, run_id) == state)


def outcomes(installation: Installation, run_id: str) -> list[str | None]:
    with installation.engine.connect() as conn:
        return [one.outcome for one in attempts_of(conn, run_id)]


def test_a_queued_run_ends_at_once_and_its_message_is_dropped(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path
) -> None:
    recorder()
    sent = app.tasks["test.obeys"].delay(str(tmp_path)).id
    known(installation, sent, "queued")
    assert cancel(sent, reason="typed wrong").how == "ended"
    run = run_of(installation, sent)  # without anybody's help
    assert (run.state, run.reason) == ("cancelled", "cancelled by ann@here: typed wrong")
    with installation.engine.connect() as conn:
        told = conn.execute(select(audit).where(audit.c.kind == "run", audit.c.name == sent)).mappings().one()
    assert (told["action"], told["who"], told["after"]["reason"]) == ("cancel", "ann@here", "typed wrong")
    (tmp_path / "go").touch()
    worker("default", env=ENV)
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert not (tmp_path / "begun").exists()
    assert run_of(installation, sent) == run
    with pytest.raises(
        ConflictError, match=r"has ended: it was cancelled at .* \(cancelled by ann@here: typed wrong\)"
    ):
        cancel(sent)
    with pytest.raises(ConflictError, match="has ended: it has succeeded"):
        cancel(after)


@pytest.mark.parametrize(
    ("pool", "task"),
    [
        ("prefork", "test.obeys"),
        ("solo", "test.obeys"),
        ("threads", "test.asks"),
        pytest.param("gevent", "test.asks", marks=only_with_gevent),
    ],
)
def test_a_running_run_is_told_and_what_follows_it_is_not_called(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path,
    pool: str, task: str,
) -> None:  # fmt: skip
    recorder()
    worker("default", pool=pool, concurrency=1 if pool == "solo" else 2, env=ENV)
    sent: Any = chain(app.tasks[task].s(str(tmp_path)), app.tasks["test.note"].s(str(tmp_path), "next")).apply_async()
    first = sent.parent.id
    known(installation, first, "running")
    assert cancel(first, reason="enough").how == "told"
    run = ends(installation, first)
    assert run.reason == "cancelled by ann@here: enough"
    assert outcomes(installation, first) == ["cancelled"]
    assert (tmp_path / "tidied").exists() is (task == "test.obeys")
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert not (tmp_path / "next").exists()
    assert installation.redis.zcard(installation.keys.leases) == 0


def test_a_worker_in_a_thread_of_a_program_has_bodies_that_ask(
    installation: Installation, app: Any, spawn: Spawn, recorder: StartProcess, cancel: Cancel, tmp_path: Path
) -> None:
    """No signal reaches them there, and one that nobody listens to would end the program."""
    recorder()
    program = spawn("support.worker_in_thread", env=ENV)
    program.wait_for("begun")
    sent = app.tasks["test.asks"].delay(str(tmp_path)).id
    known(installation, sent, "running")
    cancel(sent, reason="enough")
    assert ends(installation, sent).reason == "cancelled by ann@here: enough"
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert program.exit_code is None


def test_a_body_that_takes_no_notice_is_killed_and_not_repeated(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path
) -> None:
    recorder()
    worker("default", env=QUICK)
    sent = app.tasks["test.stubborn"].delay(str(tmp_path)).id
    known(installation, sent, "running")
    cancel(sent)
    run = ends(installation, sent)
    assert run.reason == "cancelled by ann@here (its process was killed)"
    assert (tmp_path / "ignored").read_text() == f"{sent} 1\n"
    (tmp_path / "go").touch()
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert outcomes(installation, sent) == ["cancelled"]
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(("pool", "hard"), [("threads", False), ("threads", True), ("prefork", True)])
def test_what_a_pool_cannot_stop_is_ended_if_the_order_is_hard(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path,
    pool: str, hard: bool,
) -> None:  # fmt: skip
    recorder()
    worker("default", pool=pool, env=ENV)
    sent = app.tasks["test.stubborn"].delay(str(tmp_path)).id
    known(installation, sent, "running")
    cancel(sent)
    with pytest.raises(ConflictError, match="is being cancelled already"):
        cancel(sent)
    with installation.engine.connect() as conn:
        assert str(being_cancelled(conn, sent)).endswith("--hard` gives its task no more time.")
    if hard:
        assert cancel(sent, hard=True).how == "told"
        assert "its " in str(ends(installation, sent).reason)
    (tmp_path / "go").touch()
    run = ends(installation, sent, "cancelled" if hard else "succeeded")
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert run_of(installation, sent) == run
    assert (tmp_path / "done").exists() is (pool == "threads")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_retry_of_a_cancelled_run_is_refused(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path,
    pool: str,
) -> None:  # fmt: skip
    recorder()
    worker("default", pool=pool, env=ENV)
    sent = app.tasks["test.retries_when_cancelled"].delay(str(tmp_path)).id
    known(installation, sent, "running")
    cancel(sent, reason="no more")
    assert ends(installation, sent).reason == "cancelled by ann@here: no more"
    assert (tmp_path / "retrying").exists()
    assert outcomes(installation, sent) == ["cancelled"]
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert (tmp_path / "begun").read_text() == f"{sent} 1\n"


def test_a_retry_that_was_on_its_way_is_dropped_with_an_end_of_its_own(
    installation: Installation, app: Any, recorder: StartProcess, cancel: Cancel
) -> None:
    """The worker that asked for it had not heard of the order yet."""
    recorder()
    sent = app.tasks["test.add"].delay(1, 1).id
    known(installation, sent, "queued")
    claims = Claims(installation.redis, installation.keys, lease_s=3)
    lease = claims.claim(sent, 1, "one@here", utc_today().isoformat())
    assert isinstance(lease, Lease)
    assert cancel(sent).worker == "one@here"
    assert list(claims.renew([lease]).cancelled) == [lease.fence]
    assert claims.claim(sent, 2, "two@here", lease.day) is None  # it waits until the older one has ended
    claims.finish(lease, "closed", event(EventKind.RETRIED, sent, fence=lease.fence).to_json())
    dropped = claims.claim(sent, 2, "two@here", lease.day)
    assert isinstance(dropped, Dropped)
    assert dropped.untold
    run = ends(installation, sent)
    assert (run.attempt, run.reason) == (2, "cancelled by ann@here")
    assert outcomes(installation, sent) == ["retried", "cancelled"]
    assert claims.claim(sent, 2, "two@here", lease.day) == Dropped("cancelled")


@pytest.mark.parametrize("running", [False, True])
def test_a_chord_is_told_of_a_part_that_was_cancelled(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path,
    running: bool,
) -> None:  # fmt: skip
    recorder()
    if running:
        worker("default", concurrency=2, env=ENV)
    parts = [app.tasks["test.add"].s(1, 1), app.tasks["test.obeys"].s(str(tmp_path))]
    waiting: Any = chord(parts, app.tasks["test.note"].s(str(tmp_path), "joined")).apply_async()
    part = waiting.parent.results[1]
    known(installation, part.id, "running" if running else "queued")
    cancel(part.id)
    if not running:
        worker("default", env=ENV)
    wait_until(lambda: waiting.state == "FAILURE")
    assert "cancelled by ann@here" in str(waiting.result)
    assert part.state == "REVOKED"
    assert not (tmp_path / "joined").exists()


def test_what_expires_ends_with_no_worker_at_all(installation: Installation, app: Any, recorder: StartProcess) -> None:
    recorder()
    sent = app.tasks["test.add"].apply_async((1, 1), expires=1).id
    stays = app.tasks["test.add"].apply_async((1, 1), expires=600).id
    assert ends(installation, sent, timeout_s=20).reason == "expired"
    assert run_of(installation, stays).state == "queued"
    claims = Claims(installation.redis, installation.keys, lease_s=3)
    assert claims.claim(sent, 1, "w", utc_today().isoformat()) == Dropped("cancelled")


def test_a_cancelled_run_whose_worker_dies_is_not_repeated(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path
) -> None:
    recorder()
    victim = worker("default", pool="threads", env=ENV)
    waiting: Any = chord([app.tasks["test.stubborn"].s(str(tmp_path))], app.tasks["test.add"].si(1, 1)).apply_async()
    [sent] = [one.id for one in waiting.parent.results]
    known(installation, sent, "running")
    cancel(sent, reason="stuck")
    victim.kill()
    assert ends(installation, sent, timeout_s=20).reason == "cancelled by ann@here: stuck"
    (tmp_path / "go").touch()
    worker("default", env=ENV)
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert (tmp_path / "begun").read_text() == f"{sent} 1\n"
    assert not (tmp_path / "done").exists()


def test_a_wipe_of_redis_revives_nothing(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path
) -> None:
    """Its record is lost; its message comes again, later, from who had it in hand."""
    recorder()
    sent = app.tasks["test.obeys"].delay(str(tmp_path)).id
    known(installation, sent, "queued")
    list_name = installation.keys.queue("default")
    [payload] = [
        one for key in installation.redis.scan_iter(f"{list_name}*") if installation.redis.type(key) == "list"
        for one in installation.redis.lrange(key, 0, -1)
    ]  # fmt: skip
    cancel(sent)
    for key in installation.redis.scan_iter(f"{installation.keys.prefix}*"):
        installation.redis.delete(key)
    wait_until(lambda: installation.redis.hget(installation.keys.run(sent), "state") == "cancelled", 15)
    claims = Claims(installation.redis, installation.keys, lease_s=3)
    assert claims.claim(sent, 1, "w", utc_today().isoformat()) == Dropped("cancelled")
    installation.redis.lpush(list_name, payload)
    worker("default", env=ENV)
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("pool", ["prefork", "threads", GEVENT])
def test_what_a_worker_has_taken_and_not_begun_does_not_begin(
    installation: Installation, app: Any, worker: StartWorker, recorder: StartProcess, cancel: Cancel, tmp_path: Path,
    pool: str,
) -> None:  # fmt: skip
    """Behind a run that holds the only slot, and behind its own countdown."""
    recorder()
    worker("default", pool=pool, arguments=("--prefetch-multiplier", "4"), env=ENV)
    first = app.tasks["test.asks"].delay(str(tmp_path)).id
    known(installation, first, "running")
    second = app.tasks["test.obeys"].delay(str(tmp_path)).id
    third = app.tasks["test.obeys"].apply_async((str(tmp_path),), countdown=30).id
    for run_id in (second, third):
        wait_until(partial(is_held, installation, run_id))
        known(installation, run_id, "queued")
        assert cancel(run_id).how == "told"
        assert ends(installation, run_id).reason == "cancelled by ann@here"
    (tmp_path / "go").touch()
    ends(installation, first, "succeeded")
    after = app.tasks["test.add"].delay(1, 2).id
    ends(installation, after, "succeeded")
    assert (tmp_path / "begun").read_text() == f"{first} 1\n"
    wait_until(lambda: installation.redis.zcard(installation.keys.leases) == 0)


def is_held(installation: Installation, run_id: str) -> bool:
    return bool(installation.redis.hget(installation.keys.run(run_id), "state") == "leased")


def test_an_order_waits_for_redis(
    installation: Installation, app: Any, make_settings: MakeSettings, cancel: Cancel
) -> None:
    """The intention stands; a reconciler carries it out."""
    write(installation.engine, [Entry("1-0", accepted("waits").to_json())], installation.keyring)
    away = Installation(make_settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    assert cancel_run(away, "waits", who="ann@here", app=app).how == "noted"
    assert run_of(installation, "waits").state == "queued"
    with pytest.raises(ConflictError, match="is being cancelled already"):
        cancel("waits")
    Cancellations(installation, installation.redis).carry_out("any", final=True)
    assert run_of(installation, "waits").state == "cancelled"
