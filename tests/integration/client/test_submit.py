"""`submit`: a run stands with the caller's transaction or not at all, and what stands is published."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import beatline
from beatline.client import accepting
from beatline.clock import monotonic_s, utc_now
from beatline.errors import (
    ArgumentsError,
    BeatlineError,
    ConflictError,
    DelayError,
    MessageTooLargeError,
    ServiceError,
    UnknownQueueError,
)
from beatline.installation import Installation
from beatline.ledger import relay as relay_module
from beatline.ledger.epochs import Epochs, look
from beatline.ledger.relay import Relay
from beatline.settings_checks import database_url
from support import databases, processes
from support.apps import open_app
from support.ledger import rows, run_row, waiting
from support.processes import Spawn, StartProcess
from support.servers import Server
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

TESTS = Path(processes.__file__).parents[1]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",))


@pytest.fixture
def app(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(accepting, "_away_until", {})
    with open_app(installation.settings) as app:
        yield app


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """An engine of the application's own, that knows nothing of Beatline's."""
    engine = create_engine(settings.database_url)
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE public.orders (number integer)"))
    yield engine
    engine.dispose()


def order(session: Session, number: int) -> None:
    session.execute(text("INSERT INTO public.orders VALUES (:number)"), {"number": number})


def standing(installation: Installation) -> list[str]:
    with installation.engine.connect() as conn:
        return sorted(row["id"] for row in rows(conn, "runs"))


def queued(installation: Installation) -> list[str]:
    return sorted(one.run_id for one in waiting(installation))


def nothing(installation: Installation) -> bool:
    with installation.engine.connect() as conn:
        named = rows(conn, "run_days")
    return not (named or standing(installation) or queued(installation))


def test_a_run_stands_with_the_transaction_and_is_published_after_it(
    app: Any, installation: Installation, engine: Engine
) -> None:
    with Session(engine) as session:
        order(session, 1)
        submitted = beatline.submit(app.tasks["test.add"], (1,), {"y": 2}, run_id="r1", session=session)
        assert (submitted.run_id, submitted.state, submitted.new) == ("r1", "accepted", True)
        assert nothing(installation)
        session.commit()
        assert queued(installation) == ["r1"]
        session.commit()
        order(session, 2)
        session.commit()
    assert queued(installation) == ["r1"], "once"
    with installation.engine.connect() as conn:
        row = run_row(conn, "r1")
    assert (row["state"], row["task"], row["queue"], row["args_shown"]) == ("accepted", "test.add", "default", "[1]")


def test_a_rollback_takes_it_back(app: Any, installation: Installation, engine: Engine) -> None:
    with Session(engine) as session:
        beatline.submit("test.add", (1, 2), session=session)
        session.rollback()
        session.commit()
        beatline.submit("test.add", (1, 2), session=session)
        session.close()
        with suppress(RuntimeError), session.begin():
            beatline.submit("test.add", (1, 2), session=session)
            raise RuntimeError("the request failed")
    assert nothing(installation)


def test_savepoints_take_their_runs_with_them(app: Any, installation: Installation, engine: Engine) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            beatline.submit("test.add", (1, 2), run_id="released", session=session)
            with session.begin_nested() as inner:
                beatline.submit("test.add", (1, 2), run_id="inner-back", session=session)
                inner.rollback()
            with session.begin_nested():
                beatline.submit("test.add", (1, 2), run_id="inner-released", session=session)
        assert queued(installation) == [], "a released savepoint is no commit"
        with suppress(RuntimeError), session.begin_nested():
            with session.begin_nested():
                beatline.submit("test.add", (1, 2), run_id="released-within-back", session=session)
            raise RuntimeError("taken back")
        closed = session.begin_nested()
        beatline.submit("test.add", (1, 2), run_id="closed", session=session)
        closed.close()
        beatline.submit("test.add", (1, 2), run_id="outer", session=session)
        session.commit()
    assert queued(installation) == standing(installation) == ["inner-released", "outer", "released"]


def test_a_savepoint_of_the_connection_leaves_its_runs_to_a_relay(
    app: Any, installation: Installation, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its rollback the session is told nothing."""
    monkeypatch.setattr(relay_module, "GRACE_S", 0.0)
    with Session(engine) as session:
        conn = session.connection()
        for name, end in (("core-back", "rollback"), ("core-released", "commit")):
            savepoint = conn.begin_nested()
            beatline.submit("test.add", (1, 2), run_id=name, session=session)
            with session.begin_nested():
                beatline.submit("test.add", (1, 2), run_id=f"{name}-within", session=session)
            getattr(savepoint, end)()
        beatline.submit("test.add", (1, 2), run_id="plain", session=session)
        session.commit()
    assert queued(installation) == ["plain"]
    settle(installation)
    Relay(installation, installation.redis).round()
    assert queued(installation) == standing(installation) == ["core-released", "core-released-within", "plain"]


def test_a_commit_that_is_not_the_end_publishes_nothing(
    app: Any, installation: Installation, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a test suite: the session is bound to a connection whose transaction is rolled back in the end, or not."""
    monkeypatch.setattr(relay_module, "GRACE_S", 0.0)
    for last in ("rollback", "commit"):
        with engine.connect() as conn:
            outer = conn.begin()
            with Session(conn, join_transaction_mode="create_savepoint") as session:
                beatline.submit("test.add", (1, 2), run_id=last, session=session)
                session.commit()
            assert queued(installation) == []
            getattr(outer, last)()
        settle(installation)
        Relay(installation, installation.redis).round()
    assert queued(installation) == standing(installation) == ["commit"]


def settle(installation: Installation) -> None:
    redis, keys = installation.redis, installation.keys
    Epochs(installation.engine, redis, keys).keep(look(redis, keys))
    redis.set(keys.settled, look(redis, keys).data_set)


def test_a_session_in_another_time_zone_will_do(app: Any, installation: Installation, engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("SET TIME ZONE 'Asia/Tokyo'"))
        beatline.submit("test.add", (1, 2), run_id="r1", session=session)
        session.commit()
    assert queued(installation) == ["r1"]


def test_a_scoped_session_will_do(app: Any, installation: Installation, engine: Engine) -> None:
    session = scoped_session(sessionmaker(engine))
    beatline.submit("test.add", (1, 2), run_id="r1", session=session)
    session.commit()
    session.remove()
    assert queued(installation) == ["r1"]


def test_without_a_session_it_is_committed_and_queued_at_once(app: Any, installation: Installation) -> None:
    submitted = beatline.submit("test.add", (1, 2), queue="heavy", priority=7, expires=3600, countdown=5, run_id="r1")
    assert submitted.state == "queued"
    [message] = waiting(installation, "heavy")
    assert (message.run_id, message.priority) == ("r1", 7)
    with installation.engine.connect() as conn:
        row = run_row(conn, "r1")
    assert timedelta(seconds=0) < row["eta"] - utc_now() < timedelta(seconds=6)
    assert timedelta(minutes=59) < row["expires"] - utc_now() < timedelta(minutes=61)


def test_what_is_wanted_later_waits_in_postgresql(app: Any, installation: Installation, engine: Engine) -> None:
    eta = utc_now() + timedelta(hours=2)
    with Session(engine) as session:
        assert beatline.submit("test.add", (1, 2), eta=eta, run_id="r1", session=session).state == "delayed"
        session.commit()
    assert beatline.submit("test.add", (1, 2), countdown=61, run_id="r2").state == "delayed"
    with installation.engine.connect() as conn:
        assert run_row(conn, "r1")["eta"] == eta
        assert run_row(conn, "r2")["state"] == "delayed"
    assert queued(installation) == []


def test_a_thread_of_its_own_finds_the_app(app: Any, installation: Installation) -> None:
    """A web server's threads have no current app of Celery's."""
    done: list[beatline.Submitted] = []
    thread = threading.Thread(target=lambda: done.append(beatline.submit(app.tasks["test.add"], (1, 2), run_id="r1")))
    thread.start()
    thread.join()
    assert [one.run_id for one in done] == queued(installation) == ["r1"]


def test_an_idempotency_key_gives_the_run_that_has_it(app: Any, installation: Installation, engine: Engine) -> None:
    first = beatline.submit("test.add", (1, 2), idempotency_key="order-7")
    with Session(engine) as session:
        again = beatline.submit("test.add", (1, 2), idempotency_key="order-7", session=session)
        session.commit()
    assert (again.run_id, again.new) == (first.run_id, False)
    assert queued(installation) == [first.run_id]
    with pytest.raises(ConflictError, match=f"'order-7' belongs to run {first.run_id}"):
        beatline.submit("test.fail", idempotency_key="order-7")


def test_a_run_id_that_exists_is_refused_and_breaks_nothing_off(
    app: Any, installation: Installation, engine: Engine
) -> None:
    beatline.submit("test.add", (1, 2), run_id="r1")
    with Session(engine) as session:
        order(session, 1)
        with pytest.raises(ConflictError, match="A run 'r1' was accepted before"):
            beatline.submit("test.add", (3, 4), run_id="r1", session=session)
        beatline.submit("test.add", (3, 4), run_id="r2", session=session)
        session.commit()
        assert session.execute(text("SELECT count(*) FROM public.orders")).scalar() == 1
    assert queued(installation) == ["r1", "r2"]


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"args": (1,)}, ArgumentsError, r"'test.add' was not accepted: argument 'y' is missing. It takes \(x, y\)"),
        ({"args": (1, object())}, ArgumentsError, r"'test.add'.*JSON cannot hold"),
        ({"args": (1, "x" * 10_000_000)}, MessageTooLargeError, "'test.add'"),
        ({"args": (1, 2), "countdown": -1}, DelayError, "countdown=-1"),
        ({"args": (1, 2), "expires": "soon"}, DelayError, "expires=.*is no time"),
        ({"args": (1, 2), "expires": -5}, DelayError, "expires=-5 has passed"),
        ({"args": (1, 2), "expires": utc_now() - timedelta(hours=1)}, DelayError, "expires=.*has passed already"),
        ({"args": (1, 2), "queue": "nowhere"}, UnknownQueueError, "nowhere"),
        ({"args": (1, 2), "priority": 11}, BeatlineError, "from 0 to 9"),
        ({"args": (1, 2), "idempotency_key": ""}, BeatlineError, "idempotency_key"),
        ({"args": (1, 2), "session": object()}, BeatlineError, "session is a object"),
    ],
    ids=[
        "missing",
        "no-json",
        "huge",
        "countdown",
        "expires",
        "past",
        "past-at",
        "queue",
        "priority",
        "key",
        "session",
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    app: Any, installation: Installation, asked: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        beatline.submit("test.add", **asked)
    assert nothing(installation)


def test_a_session_of_another_database_is_refused(
    app: Any, installation: Installation, empty_database: str, tmp_path: Path
) -> None:
    elsewhere = create_engine(database_url(empty_database)), create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    for engine in elsewhere:
        with Session(engine) as session, pytest.raises(ServiceError, match="nothing was written"):
            beatline.submit("test.add", (1, 2), session=session)
        engine.dispose()
    assert nothing(installation)


def test_tables_of_the_same_name_elsewhere_are_refused(
    app: Any, installation: Installation, postgres: str, database_template: str
) -> None:
    with databases.database(postgres, template=database_template) as url:
        engine = create_engine(database_url(url))
        with Session(engine) as session:
            for _ in range(2):
                with pytest.raises(ServiceError, match="is not that of Beatline"):
                    beatline.submit("test.add", (1, 2), session=session)
            session.commit()
            assert session.execute(text("SELECT count(*) FROM beatline.run_days")).scalar() == 0
        engine.dispose()
    assert nothing(installation)


def test_a_role_that_may_not_write_is_told_what_to_grant(app: Any, installation: Installation, engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("SET LOCAL ROLE pg_read_all_stats"))
        with pytest.raises(ServiceError, match="GRANT USAGE ON SCHEMA beatline"):
            beatline.submit("test.add", (1, 2), session=session)
        assert session.execute(text("SELECT 1")).scalar() == 1, "the transaction goes on"
    assert nothing(installation)


def test_a_frozen_redis_delays_a_commit_and_loses_nothing(
    make_settings: MakeSettings, own_redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "_away_until", {})
    monkeypatch.setattr(relay_module, "GRACE_S", 0.0)
    settings = make_settings(redis_url=own_redis.url, result_url=own_redis.url, task_modules=("support.run_tasks",))
    installation, engine = Installation(settings), create_engine(settings.database_url)
    with open_app(settings) as app:
        settle(installation)
        pid = int(installation.redis.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        began = monotonic_s()
        try:
            with Session(engine) as session:
                beatline.submit(app.tasks["test.add"], (1, 2), run_id="r1", session=session)
                session.commit()
            assert beatline.submit(app.tasks["test.add"], (1, 2), run_id="r2").state == "accepted"
            assert monotonic_s() - began < 3.0, "both together: nobody waits twice for the same Redis"
        finally:
            os.kill(pid, signal.SIGCONT)
        Relay(installation, installation.redis).round()
        assert set(queued(installation)) >= {"r1", "r2"}, "what Redis took too late to tell is there as well"
    installation.redis.close()
    engine.dispose()


@pytest.mark.proof
def test_who_dies_after_the_commit_has_its_run_published_within_two_seconds(
    installation: Installation, recorder: StartProcess, spawn: Spawn
) -> None:
    recorder(env={"BEATLINE_LEASE_S": "1.5", "BEATLINE_LEASE_RENEW_S": "0.5"})
    # Before that, what was committed ahead of the relay's first look waits for as long as a lease.
    wait_until(lambda: installation.redis.get(installation.keys.settled), 20, what="the data set is settled")
    died = spawn("support.submit_and_die", "r1", env={"PYTHONPATH": str(TESTS)})
    assert died.wait(30.0) == -signal.SIGKILL
    ended_s = monotonic_s()
    assert "submitted" in died.output()
    wait_until(lambda: queued(installation) == ["r1"], 10, what="the relay has published it")
    assert monotonic_s() - ended_s < 2.0
    wait_until(lambda: _states(installation) == {"queued"}, 10, what="and the ledger knows")
    assert queued(installation) == ["r1"], "once"


def _states(installation: Installation) -> set[str]:
    with installation.engine.connect() as conn:
        return {row["state"] for row in rows(conn, "runs")}
