"""Delays over a minute leave as events: by every way a task is sent, with real workers and recorders behind it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import chord, group
from sqlalchemy import text

from beatline.clock import utc_now
from beatline.engine.messages import list_names
from beatline.errors import BeatlineError, DelayError, MessageTooLargeError
from beatline.installation import Installation
from beatline.ledger.delays import move
from beatline.ledger.events import FIELD
from support import run_tasks
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.processes import StartProcess, StartWorker
    from support.serving import MakeSettings

ENV = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",), lease_s=3.0, lease_renew_s=0.5)


def told(installation: Installation) -> list[dict[str, Any]]:
    return [json.loads(entry[FIELD]) for _, entry in installation.redis.xrange(installation.keys.events)]


def in_queues(installation: Installation) -> int:
    return sum(installation.redis.llen(installation.keys.queue(name)) for name in list_names("default"))


def left_over(installation: Installation) -> int:
    """What lies in the queue, is leased, or is held unacknowledged."""
    redis, prefix = installation.redis, installation.settings.key_prefix
    return in_queues(installation) + int(redis.zcard(installation.keys.leases)) + int(redis.hlen(f"{prefix}unacked"))


def states(installation: Installation) -> dict[str, tuple[str, int]]:
    with installation.engine.connect() as conn:
        return {row.id: (row.state, row.attempt) for row in
                conn.execute(text("SELECT id, state, attempt FROM beatline.runs"))}  # fmt: skip


def let_go(installation: Installation, *run_ids: str) -> None:
    for run_id in run_ids:
        move(installation, run_id, utc_now(), who="test")


def send_as_stock_celery(settings: Settings) -> None:
    script = (
        "from celery import Celery\n"
        f"app = Celery(broker={settings.redis_url!r})\n"
        f"app.conf.broker_transport_options = {{'global_keyprefix': {settings.key_prefix!r}}}\n"
        "app.send_task('test.add', (1, 2), task_id='stock', countdown=3600, queue='default', ignore_result=True)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=30)


@pytest.mark.parametrize("how", ["countdown", "eta", "naive", "text", "by name", "batch", "chain"])
def test_a_delay_over_a_minute_is_an_event_and_no_message(app: Any, installation: Installation, how: str) -> None:
    add, due = app.tasks["test.add"], datetime.now(UTC) + timedelta(days=365)
    match how:
        case "countdown":
            add.apply_async((1, 2), countdown=365 * 86400)
        case "eta":
            add.apply_async((1, 2), eta=due)
        case "naive":
            add.apply_async((1, 2), eta=due.replace(tzinfo=None))
        case "text":
            add.apply_async((1, 2), eta=due.isoformat())
        case "by name":
            app.send_task("test.add", (1, 2), countdown=365 * 86400)
        case "batch":
            many: Any = group
            many(add.s(n, n) for n in range(3)).apply_async(countdown=365 * 86400)
        case _:
            (add.s(1, 2) | add.s(3)).apply_async(countdown=365 * 86400)
    events = told(installation)
    assert len(events) == (3 if how == "batch" else 1)
    for event in events:
        assert (event["kind"], event["delayed"], event.get("queued")) == ("accepted", True, None)
        eta = datetime.fromisoformat(event["eta"])
        assert abs((eta.replace(tzinfo=eta.tzinfo or UTC) - due).total_seconds()) < 30
        assert json.loads(event["message"])["headers"]["id"] == event["run_id"]
    assert in_queues(installation) == 0


@pytest.mark.parametrize("countdown", [0, 0.5, 59.9])
def test_a_short_delay_waits_in_its_queue(app: Any, installation: Installation, countdown: float) -> None:
    app.tasks["test.add"].apply_async((1, 2), countdown=countdown)
    app.tasks["test.add"].apply_async((1, 2), eta=datetime.now(UTC) - timedelta(days=400))
    assert in_queues(installation) == 2
    assert [(event["queued"], event.get("delayed")) for event in told(installation)] == [(True, None)] * 2


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"countdown": -1}, "countdown"),
        ({"countdown": 1e13}, "countdown"),
        ({"countdown": math.nan}, "countdown"),
        ({"countdown": math.inf}, "countdown"),
        ({"countdown": True}, "countdown"),
        ({"eta": "tomorrow"}, "eta"),
        ({"eta": 3600}, "eta"),
        ({"eta": "9999-12-31T23:59:59-14:00"}, "eta"),
    ],
)
def test_what_is_no_delay_is_refused_before_anything_is_written(
    app: Any, installation: Installation, options: dict[str, Any], field: str
) -> None:
    add = app.tasks["test.add"]
    senders: tuple[Callable[[], Any], ...] = (
        lambda: add.apply_async((1, 2), **options),
        lambda: add.apply_async((1, 2), ignore_result=True, **options),
        lambda: app.send_task("test.add", (1, 2), **options),
        lambda: add.s(1, 2).set(**options).delay(),
    )
    for send in senders:
        with pytest.raises(DelayError, match=f"^{field}=") as refused:
            send()
        assert refused.value.field == field
    assert list(installation.redis.scan_iter(f"{installation.settings.key_prefix.replace('{', '[{]')}*")) == []


@pytest.mark.parametrize("priority", ["5", "high", 5.0, True, -1, 10, 100_000, [5]])
@pytest.mark.parametrize("countdown", [None, 3600])
def test_what_is_no_priority_is_refused_where_it_is_sent(
    app: Any, installation: Installation, priority: Any, countdown: float | None
) -> None:
    """kombu would guess; the ledger refuses, and a delayed run stands nowhere else."""
    with pytest.raises(BeatlineError, match="from 0 to 9"):
        app.tasks["test.add"].apply_async((1, 2), countdown=countdown, priority=priority)
    assert told(installation) == []
    assert not installation.redis.exists(installation.keys.queue("default"))


def test_a_delayed_message_over_the_limit_is_refused(app: Any, installation: Installation) -> None:
    with pytest.raises(MessageTooLargeError):
        app.tasks["test.add"].apply_async(("x" * 300_000, 2), countdown=3600)
    assert told(installation) == []


@pytest.mark.proof
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_retry_in_an_hour_leaves_nothing_with_its_worker(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, pool: str
) -> None:
    recorder()
    running = worker("default", pool=pool, env=ENV)
    later, foreign = app.tasks["test.later"], app.tasks["test.later_foreign"]
    later.apply_async((3600,), task_id="ours")
    foreign.apply_async((3600,), task_id="theirs")
    app.tasks["test.later_strict"].apply_async((3600,), task_id="strict")
    app.tasks["test.replaced_later"].apply_async((), task_id="replaced")
    asked = ("ours", "theirs", "strict", "replaced")
    wait_until(lambda: states(installation) == dict.fromkeys(asked, ("delayed", 2)), 20)
    wait_until(lambda: left_over(installation) == 0, what="nothing is held anywhere")
    bad = later.apply_async((-5,))
    wait_until(lambda: states(installation).get(bad.id) == ("failed", 1), 20)
    with installation.engine.connect() as conn:
        error = conn.execute(text("SELECT error FROM beatline.runs WHERE id = :id"), {"id": bad.id}).scalar_one()
    assert "countdown=-5 is negative" in error
    let_go(installation, *asked)
    ended = dict.fromkeys(asked, ("succeeded", 2))
    wait_until(lambda: states(installation).items() >= ended.items(), 20)
    assert app.AsyncResult("ours").get(timeout=5) == 2
    assert running.exit_code is None


@pytest.mark.proof
def test_chords_chains_and_what_stock_celery_sent_come_to_their_end(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess
) -> None:
    recorder()
    worker("default", pool="threads", concurrency=2, env=ENV)
    add = app.tasks["test.add"]
    header = [add.s(n, n).set(task_id=f"part-{n}", countdown=3600) for n in range(3)]
    joined = chord(header, app.tasks["test.total"].s()).apply_async()
    stepped = (add.s(1, 1) | add.s(2).set(task_id="second", countdown=3600)).apply_async()
    send_as_stock_celery(installation.settings)
    waiting = dict.fromkeys(("part-0", "part-1", "part-2", "second"), ("delayed", 1)) | {"stock": ("delayed", 2)}
    wait_until(lambda: states(installation).items() >= waiting.items(), 20)
    wait_until(lambda: left_over(installation) == 0, what="no worker keeps a message whose time is far off")
    parts: Any = joined.parent
    counted = app.backend.get_key_for_group(parts.id, ".s")
    assert app.backend.client.ttl(counted) > 29 * 86400, "the chord has not forgotten its parts when the last one ends"
    let_go(installation, *waiting)
    assert joined.get(timeout=20) == 6
    assert stepped.get(timeout=20) == 4
    wait_until(lambda: states(installation)["stock"] == ("succeeded", 2), 20)


@pytest.mark.proof
@pytest.mark.parametrize("place", ["delays.taken", "delays.published"])
def test_a_recorder_that_dies_while_it_sends_repeats_harmlessly(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path, place: str
) -> None:
    worker("default", pool="threads", concurrency=4, env=ENV)
    (tmp_path / "go").touch()
    hold, ids = app.tasks["test.hold"], [f"run-{n}" for n in range(20)]
    for run_id in ids:
        hold.apply_async((str(tmp_path),), task_id=run_id, countdown=3600)
    dying = recorder(env={"BEATLINE_TEST_FAILPOINT": place})
    wait_until(lambda: len(states(installation)) == len(ids), 20)
    with installation.engine.begin() as conn:
        conn.execute(text("UPDATE beatline.runs SET accepted_at = now() - interval '1 hour'"))
    let_go(installation, *ids)
    assert dying.wait(20) == -9
    recorder()
    wait_until(lambda: all(state == "succeeded" for state, _ in states(installation).values()), 30)
    done = Counter(line.split()[0] for line in (tmp_path / "done").read_text().splitlines())
    assert done == Counter(ids)
