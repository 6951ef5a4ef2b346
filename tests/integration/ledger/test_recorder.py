"""A recorder may die anywhere, and so may the servers: nothing is lost and nothing is counted twice."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.clock import monotonic_s, utc_today
from beatline.installation import Installation
from beatline.ledger.database import upgrade
from beatline.ledger.events import FIELD, Event
from beatline.ledger.states import EventKind
from beatline.ledger.stream import GROUP, measure
from support.ledger import accepted, event, message, rows, run_row, tell
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.processes import Spawn, StartProcess
    from support.servers import Server
    from support.serving import MakeSettings

_RUNS = 40


def _lives(number: int) -> list[Event]:
    """What is told of a run that one worker lost and another ended, and whose first worker came back too late."""
    run_id = f"run-{number}"
    first: dict[str, Any] = {"worker": "a@x", "fence": 2 * number}
    second: dict[str, Any] = {"worker": "b@x", "fence": 2 * number + 1}
    return [
        accepted(run_id),
        event(EventKind.STARTED, run_id, **first),
        event(EventKind.LOST, run_id, worker="a@x", reason="gone"),
        event(EventKind.QUEUED, run_id, attempt=2),
        event(EventKind.STARTED, run_id, attempt=2, **second),
        event(EventKind.REFUSED, run_id, **first),
        event(EventKind.SUCCEEDED, run_id, attempt=2, **second),
    ]


def _is_drained(installation: Installation) -> bool:
    return measure(installation.redis, installation.keys).events == 0


def _assert_all_recorded(installation: Installation, runs: int = _RUNS) -> None:
    with installation.engine.connect() as conn:
        states = [row["state"] for row in rows(conn, "runs")]
        attempts = rows(conn, "attempts")
        assert rows(conn, "parked_events") == []
    assert states == ["succeeded"] * runs
    assert [(a["outcome"], a["refused"]) for a in attempts].count(("lost", 1)) == runs
    assert [(a["outcome"], a["refused"]) for a in attempts].count(("succeeded", 0)) == runs
    assert len(attempts) == 2 * runs


@pytest.mark.proof
@pytest.mark.parametrize("place", ["recorder.read", "recorder.committed:2", "recorder.removed"])
def test_a_recorder_killed_at_any_step_loses_and_doubles_nothing(
    installation: Installation, recorder: StartProcess, place: str
) -> None:
    victim = recorder(env={"BEATLINE_TEST_FAILPOINT": place})
    for number in range(_RUNS):
        tell(installation, _lives(number))
        if number % 8 == 0:
            wait_until(lambda: _is_drained(installation) or victim.exit_code is not None)
    assert victim.wait() == -signal.SIGKILL

    recorder()
    wait_until(lambda: _is_drained(installation), timeout_s=20)
    _assert_all_recorded(installation)


def test_several_recorders_share_the_work(installation: Installation, recorder: StartProcess) -> None:
    both = [recorder(), recorder()]
    for number in range(_RUNS):
        tell(installation, _lives(number))
    wait_until(lambda: _is_drained(installation))
    _assert_all_recorded(installation)
    assert [one.stop() for one in both] == [0, 0]
    client: Any = installation.redis
    assert client.xinfo_consumers(installation.keys.events, GROUP) == []


def test_an_event_stands_in_postgresql_within_a_second(installation: Installation, recorder: StartProcess) -> None:
    recorder()
    tell(installation, [accepted("warm")])
    wait_until(lambda: _is_drained(installation))
    tell(installation, [accepted("timed")])
    sent = monotonic_s()
    with installation.engine.connect() as conn:
        conn.execution_options(isolation_level="AUTOCOMMIT")
        query = text("SELECT 1 FROM beatline.runs WHERE id = 'timed'")
        wait_until(lambda: conn.execute(query).scalar(), timeout_s=5)
    assert monotonic_s() - sent < 1.0


def test_it_ends_within_two_seconds(recorder: StartProcess) -> None:
    running = recorder()
    asked = monotonic_s()
    assert running.stop() == 0
    assert monotonic_s() - asked < 2.0
    assert "recorder_stopped" in running.output()


def test_poison_is_parked_with_its_reason_and_its_neighbours_go_on(
    installation: Installation, recorder: StartProcess
) -> None:
    tell(installation, [accepted("before")])
    client: Any = installation.redis
    for poison in (b"\xff\xfe not text", b"{}", b'{"kind":"started"}'):
        client.xadd(installation.keys.events, {FIELD: poison})
    client.xadd(installation.keys.events, {"another": "field"})
    # Valid by itself, but PostgreSQL has no such date: it is found by halving the batch.
    secret = message("far").payload
    tell(installation, [event(EventKind.ACCEPTED, "far", queued=True, message=secret, eta="9999-12-31T23:59:59+00:00")])
    with installation.engine.begin() as conn:
        conn.execute(text("ALTER TABLE beatline.runs ADD CONSTRAINT no_far CHECK (id <> 'far')"))
    tell(installation, [accepted("after")])

    said = recorder()
    wait_until(lambda: _is_drained(installation))
    with installation.engine.connect() as conn:
        assert {row["id"] for row in rows(conn, "runs")} == {"before", "after"}
        parked = rows(conn, "parked_events")
    reasons = sorted(row["reason"] for row in parked)
    assert len(parked) == 5
    assert any("no_far" in reason for reason in reasons)
    assert "not text" in "".join(row["payload"] for row in parked)
    [far] = [json.loads(row["payload"]) for row in parked if "no_far" in row["reason"]]
    assert far["run_id"] == "far"
    assert "headers" not in far["message"]  # it is encrypted here too
    said.wait_for("event_parked")


def test_a_stopped_postgresql_only_delays_history(
    make_settings: MakeSettings, own_postgres: Server, recorder: StartProcess
) -> None:
    settings = make_settings(database_url=own_postgres.url)
    upgrade(settings)
    installation = Installation(settings)
    running = recorder(settings=settings)
    tell(installation, _lives(0))
    wait_until(lambda: _is_drained(installation))

    own_postgres.kill()
    for number in range(1, _RUNS):
        tell(installation, _lives(number))
    running.wait_for("server_away")
    assert measure(installation.redis, installation.keys).events == 7 * (_RUNS - 1)
    own_postgres.start()
    wait_until(lambda: _is_drained(installation), timeout_s=20)
    _assert_all_recorded(installation)
    running.wait_for("server_back")
    assert running.output().count("server_away") <= 2  # said once an outage; a dying server may make two of it
    installation.engine.dispose()


def test_a_stopped_redis_is_waited_for_and_an_emptied_one_is_met_again(
    make_settings: MakeSettings, own_redis: Server, recorder: StartProcess
) -> None:
    settings = make_settings(redis_url=own_redis.url)
    installation = Installation(settings)
    running = recorder(settings=settings)
    tell(installation, _lives(0))
    wait_until(lambda: _is_drained(installation))

    own_redis.stop()
    running.wait_for("server_away")
    own_redis.start()
    running.wait_for("server_back")
    client: Any = installation.redis
    client.flushall()
    tell(installation, _lives(1))
    wait_until(lambda: _is_drained(installation) and client.get(installation.keys.epoch))
    _assert_all_recorded(installation, runs=2)
    assert running.exit_code is None
    with installation.engine.connect() as conn:
        assert len(rows(conn, "epochs")) >= 2
    client.close()


def test_it_waits_for_its_tables_and_refuses_newer_ones(
    make_settings: MakeSettings, empty_database: str, spawn: Spawn
) -> None:
    settings = make_settings(database_url=empty_database)
    waiting = spawn("beatline.cli", "recorder", settings=settings)
    waiting.wait_for("recorder_waits.*beatline db upgrade")
    upgrade(settings)
    waiting.wait_for("recorder_started")
    assert waiting.stop() == 0

    with Installation(settings).engine.begin() as conn:
        conn.execute(text("UPDATE beatline.alembic_version SET version_num = '9999'"))
    refused = spawn("beatline.cli", "recorder", settings=settings)
    assert refused.wait(20) == 1
    assert "upgrade the code on this machine" in refused.output()
    assert "Traceback" not in refused.output()


def test_it_makes_partitions_for_days_it_slept_through(installation: Installation, recorder: StartProcess) -> None:
    slept = utc_today() - timedelta(days=2)
    with installation.engine.begin() as conn:
        conn.execute(text(f"DROP TABLE beatline.runs_{utc_today():%Y%m%d}"))
    tell(installation, [accepted("then", day=slept), accepted("now")])
    recorder().wait_for(f"runs_{utc_today():%Y%m%d}")
    wait_until(lambda: _is_drained(installation))
    with installation.engine.connect() as conn:
        assert run_row(conn, "then")["day"] == slept
        found = conn.execute(text("SELECT CAST(tableoid AS regclass) FROM beatline.runs WHERE id = 'now'"))
        assert str(found.scalar_one()).endswith(f"runs_{utc_today():%Y%m%d}")
