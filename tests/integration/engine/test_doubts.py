"""Real workers: what Redis's memory cannot vouch for is claimed by PostgreSQL's word, and holds up nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from beatline.clock import monotonic_s, utc_now, utc_today
from beatline.engine.claim import script_source
from beatline.engine.doubts import PATIENCE_S
from beatline.engine.lease import BEGIN_LINGER_S
from beatline.engine.messages import list_key, parked_key
from beatline.engine.publish import message_of
from beatline.installation import Installation
from beatline.ledger.database import open_engine, upgrade
from beatline.ledger.store import insert_runs
from beatline.queues.census import lengths
from beatline.settings import Settings
from support import run_tasks
from support.apps import open_app
from support.ledger import long_ago, new_run, run_row
from support.pools import POOLS
from support.processes import Spawned, StartProcess, StartWorker
from support.servers import Server
from support.serving import MakeSettings
from support.waiting import wait_until

pytestmark = pytest.mark.proof

ENV: Final = {"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}
HOUR_S: Final = 3600.0
OLD_S: Final = 23.5 * HOUR_S
SCRIPTS: Final = ("claim", "renew", "begin", "finish", "abandon", "return_run", "cancel")
FACTS: Final[dict[str, Any]] = {"task_modules": ("support.run_tasks",), "lease_s": 3.0, "lease_renew_s": 1.0}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(**FACTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where test.hold writes who ran; it holds nobody up."""
    folder = tmp_path / "held"
    folder.mkdir()
    (folder / "go").touch()
    return folder


def ran(folder: Path) -> Counter[str]:
    """How often each run was executed."""
    begun = folder / "begun"
    lines = begun.read_text().splitlines() if begun.exists() else []
    return Counter(line.split()[0] for line in lines)


def queue(app: Any, installation: Installation, folder: Path, run_id: str, *, age_s: float = OLD_S, stock: bool = False,
          redelivered: bool = False) -> None:  # fmt: skip
    """A message of test.hold that has lain in the queue for so long."""
    built = message_of(app, "test.hold", [str(folder)], {}, run_id=run_id, day=utc_today().isoformat())
    message = json.loads(built.payload)
    message["headers"]["bl_published"] = utc_now().timestamp() - age_s
    if redelivered:
        message["headers"]["redelivered"] = True
    if stock:
        message["headers"] = {name: value for name, value in message["headers"].items() if not name.startswith("bl_")}
    else:
        installation.redis.zadd(installation.keys.index("default"), {run_id: 1})
    installation.redis.lpush(list_key(installation.keys, "default", 0), json.dumps(message))


def in_ledger(installation: Installation, *run_ids: str, state: str) -> None:
    """Runs of which PostgreSQL knows that their first attempt came so far."""
    ended = "now()" if state in ("succeeded", "dead") else "NULL"
    with installation.engine.begin() as conn:
        insert_runs(conn, [new_run(run_id) for run_id in run_ids], installation.keyring)
        conn.execute(
            text(f"UPDATE beatline.runs SET state = :state, ended_at = {ended} WHERE id = ANY(:ids)"),  # noqa: S608  # ours
            {"state": state, "ids": list(run_ids)},
        )


def at_rest(installation: Installation) -> None:
    """No lease, no message taken or waiting, none parked, and none in the index of the queue: all at one moment, for a
    message that was popped and is not claimed yet stands in the index alone."""
    redis, keys = installation.redis, installation.keys
    default = list_key(keys, "default", 0)

    def left() -> list[Any]:
        with redis.pipeline(transaction=True) as pipe:
            pipe.zcard(keys.leases).hlen(keys.queue("unacked")).llen(default).llen(parked_key(default))
            found: list[Any] = pipe.zcard(keys.index("default")).execute()
        return found

    def is_left_nothing() -> bool:
        assert left() == [0, 0, 0, 0, 0], "leases, taken, waiting, parked, in the index"
        return True

    wait_until(is_left_nothing)


def said(process: Spawned, event: str) -> list[str]:
    """The lines of a process's log that hold an event."""
    return [line for line in process.output().splitlines() if event in line]


@pytest.mark.parametrize("pool", POOLS)
def test_an_old_message_runs_only_if_its_run_has_not_ended(
    app: Any, installation: Installation, folder: Path, worker: StartWorker, pool: str
) -> None:
    long_ago(installation)
    in_ledger(installation, "ended", "buried", state="succeeded")
    in_ledger(installation, "waits", state="queued")
    in_ledger(installation, "lost", state="lost")
    in_ledger(installation, "begun", state="running")
    for run_id in ("ended", "waits", "buried", "lost", "begun", "unknown"):
        queue(app, installation, folder, run_id)
    queue(app, installation, folder, "young", age_s=22 * HOUR_S)
    running = worker("default", pool=pool, env=ENV)
    wait_until(lambda: len(ran(folder)) == 4, 15)
    at_rest(installation)
    assert ran(folder) == {"waits": 1, "begun": 1, "unknown": 1, "young": 1}
    assert len(said(running, "message_dropped")) == 3
    asked = said(running, "asked_postgresql")
    assert 1 <= len(asked) <= 2, "one question covers what stands behind it"


def test_a_stock_producer_s_message_is_in_doubt_once_it_was_delivered_before(
    app: Any, installation: Installation, folder: Path, worker: StartWorker
) -> None:
    long_ago(installation)
    in_ledger(installation, "ended", "new", state="succeeded")
    queue(app, installation, folder, "ended", stock=True, redelivered=True)
    queue(app, installation, folder, "unknown", stock=True, redelivered=True)
    queue(app, installation, folder, "new", stock=True)
    worker("default", env=ENV)
    wait_until(lambda: len(ran(folder)) == 2, 15)
    at_rest(installation)
    assert ran(folder) == {"unknown": 1, "new": 1}
    told = [json.loads(entry["e"]) for _, entry in installation.redis.xrange(installation.keys.events)]
    introduced = [event for event in told if event["kind"] == "accepted" and event["run_id"] == "unknown"]
    assert len(introduced) == 1, "it is made known to the ledger when it is claimed, not when it is doubted"


def asked_until_now(redis: Any, monitor: Any) -> Iterator[tuple[str, str, float]]:
    """What Redis has been asked for since it was watched: a script of ours or a command, of which run, and when (s)."""
    scripts: dict[str, str] = {redis.script_load(script_source(name)): name for name in SCRIPTS}
    redis.echo(last := "all is seen")
    while (seen := monitor.next_command())["command"] != f"ECHO {last}":
        line: str = seen["command"]
        command, _, rest = line.partition(" ")
        run = re.search(r"run:([0-9a-f-]{36})", rest)
        yield scripts.get(rest.partition(" ")[0], command), run[1] if run else "", seen["time"]


def test_an_ordinary_message_costs_what_it_did(
    make_settings: MakeSettings, own_redis: Server, folder: Path, worker: StartWorker
) -> None:
    settings = make_settings(redis_url=own_redis.url, result_url=own_redis.url, **FACTS)
    installation = Installation(settings)
    long_ago(installation)
    running = worker("default", pool="threads", env=ENV, settings=settings)
    redis, count = installation.redis, 60
    with open_app(settings) as app:
        app.tasks["test.forget"].delay()
        at_rest(installation)  # scripts are loaded, and connections made
        since = monotonic_s()
        with redis.monitor() as monitor:
            for _ in range(count):
                app.tasks["test.forget"].delay()
            at_rest(installation)
            took_s = monotonic_s() - since
            asked = list(asked_until_now(redis, monitor))
    called = Counter(name for name, _, _ in asked)
    at = {name: {run_id: when for script, run_id, when in asked if script == name} for name in ("claim", "finish")}
    slow = sum(at["finish"][run_id] - claimed > BEGIN_LINGER_S for run_id, claimed in at["claim"].items())
    renewals = int(took_s / settings.lease_renew_s) + 2
    assert (called["claim"], called["finish"]) == (count, count), "one claim and one end a run"
    assert called["renew"] <= renewals
    assert called["begin"] <= slow, "only a run that lasts tells its begin by itself"
    assert not called["abandon"] + called["return_run"] + called["cancel"], "and nothing besides"
    assert called["BRPOP"] <= count + took_s + 2
    assert not said(running, "asked_postgresql")
    redis.close()


@pytest.mark.proof
def test_after_a_restart_of_redis_a_backlog_runs_once(
    make_settings: MakeSettings, own_redis: Server, folder: Path, worker: StartWorker, recorder: StartProcess
) -> None:
    settings = make_settings(redis_url=own_redis.url, result_url=own_redis.url, **FACTS)
    installation = Installation(settings)
    recorder(settings=settings)
    idle = worker("email", pool="threads", env=ENV, settings=settings)  # lives through the restart
    with open_app(settings) as app:
        sent = [app.tasks["test.hold"].delay(str(folder)).id for _ in range(1000)]
    wait_until(lambda: installation.redis.xlen(settings.keys.events) == 0, 20, what="all is drained")
    own_redis.stop()
    own_redis.start()
    installation = Installation(settings)
    with installation.engine.begin() as conn:  # as if the last second of Redis had been lost, which said that it ran
        conn.execute(
            text("UPDATE beatline.runs SET state = 'succeeded', ended_at = now() WHERE id = :id"), {"id": sent[0]}
        )
    running = worker("default", pool="threads", concurrency=4, env=ENV, settings=settings)
    wait_until(lambda: len(ran(folder)) >= 999, 40)
    at_rest(installation)
    assert ran(folder) == dict.fromkeys(sent[1:], 1)
    asked = said(running, "asked_postgresql")
    assert len(asked) <= 6, asked  # a claim and the recorder may each begin an epoch, and each is asked about anew
    assert not said(running, "doubtful_messages_wait")
    assert idle.exit_code is None
    installation.redis.close()


def _own_installation(make_settings: MakeSettings, postgres: Server) -> Installation:
    settings = make_settings(database_url=postgres.url, **FACTS)
    upgrade(settings)
    installation = Installation(settings)
    long_ago(installation)
    return installation


@pytest.mark.proof
def test_while_postgresql_is_away_others_go_on_and_none_is_lost(
    make_settings: MakeSettings, own_postgres: Server, folder: Path, worker: StartWorker
) -> None:
    installation = _own_installation(make_settings, own_postgres)
    settings, redis = installation.settings, installation.redis
    default = list_key(settings.keys, "default", 0)
    in_ledger(installation, "ended", state="succeeded")
    open_engine(settings).dispose()
    own_postgres.stop()
    with open_app(settings) as app:
        doubtful = ["ended", *(f"old-{number}" for number in range(200))]
        for run_id in doubtful:
            queue(app, installation, folder, run_id)
        first = worker("default", pool="threads", concurrency=2, env=ENV, settings=settings)
        since = monotonic_s()
        young = [app.tasks["test.hold"].delay(str(folder)).id for _ in range(100)]
        wait_until(lambda: len(ran(folder)) == 100, 10, what="what is not in doubt runs")
        assert monotonic_s() - since < 8
        assert ran(folder) == dict.fromkeys(young, 1)
        assert redis.llen(parked_key(default)) == len(doubtful)
        assert lengths(redis, settings.keys, ["default"]) == {"default": len(doubtful)}, "they are in their queue"
        wait_until(lambda: redis.zcard(settings.keys.leases) == 0, what="the last of them has told its end")

        before, since = redis.info("stats")["total_commands_processed"], monotonic_s()
        wait_until(lambda: monotonic_s() > since + 3, every_s=1)
        a_second = (redis.info("stats")["total_commands_processed"] - before) / (monotonic_s() - since)
        assert a_second < 40, "nothing goes round in circles"
        assert len(said(first, "doubtful_messages_wait")) == 1

        first.kill()  # whoever comes next finds what it has parked
        second = worker("default", pool="threads", concurrency=2, env=ENV, settings=settings)
        own_postgres.start()
        wait_until(lambda: len(ran(folder)) == 300, 20)
    at_rest(installation)
    assert ran(folder) == dict.fromkeys([*young, *doubtful[1:]], 1)
    assert len(said(second, "message_dropped")) == 1
    with installation.engine.connect() as conn:
        assert run_row(conn, "ended")["state"] == "succeeded"
    redis.close()


@pytest.mark.proof
def test_a_postgresql_that_takes_connections_and_says_nothing_holds_nobody_up_for_long(
    make_settings: MakeSettings, own_postgres: Server, folder: Path, worker: StartWorker
) -> None:
    installation = _own_installation(make_settings, own_postgres)
    settings = installation.settings
    open_engine(settings).dispose()
    with open_app(settings) as app:
        for number in range(20):
            queue(app, installation, folder, f"old-{number}")
        pid = own_postgres._server.pid  # pyright: ignore[reportPrivateUsage]  # frozen, which no operator does
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            since = monotonic_s()
            running = worker("default", pool="threads", env=ENV, settings=settings)
            young = app.tasks["test.hold"].delay(str(folder)).id
            wait_until(lambda: ran(folder) == {young: 1}, PATIENCE_S + 15)
            assert len(said(running, "doubtful_messages_wait")) == 1
            assert monotonic_s() - since < PATIENCE_S + 12
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: len(ran(folder)) == 21, 20)
    at_rest(installation)
    assert set(ran(folder).values()) == {1}
    assert len(said(running, "doubtful_messages_go_on")) == 1
    installation.redis.close()
