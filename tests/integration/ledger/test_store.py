"""Runs accepted by their rows, and what people ask of history."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from beatline.clock import utc_now, utc_today
from beatline.errors import NotFoundError
from beatline.ledger.apply import message_binding
from beatline.ledger.events import Event
from beatline.ledger.history import RunFilter, attempts_of, find_run, list_runs, open_runs
from beatline.ledger.intake import Entry
from beatline.ledger.states import EventKind, RunState
from beatline.ledger.store import insert_runs, mark_queued
from beatline.ledger.write import write
from support.ledger import accepted, event, message, new_run, run_row

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from beatline.installation import Installation


@pytest.fixture
def engine(installation: Installation) -> Engine:
    return installation.engine


def _write(installation: Installation, *events: Event) -> None:
    entries = [Entry(f"{number}-0", one.to_json()) for number, one in enumerate(events)]
    assert write(installation.engine, entries, installation.keyring) == 0


def test_a_run_is_accepted_once(installation: Installation, engine: Engine) -> None:
    with engine.begin() as conn:
        assert insert_runs(conn, [new_run("b"), new_run("a"), new_run("a")], installation.keyring) == {"a", "b"}
    with engine.begin() as conn:
        again = [new_run("b", day=utc_today() + timedelta(days=1)), new_run("c", idempotency_key="once")]
        assert insert_runs(conn, again, installation.keyring) == {"c"}
        assert insert_runs(conn, [new_run("d", idempotency_key="once")], installation.keyring) == frozenset()
        assert insert_runs(conn, [], installation.keyring) == frozenset()
    with engine.connect() as conn:
        row = run_row(conn, "b")
        assert {run.id for run in list_runs(conn, RunFilter())} == {"a", "b", "c"}
    assert (row["state"], row["attempt"], row["day"]) == ("accepted", 1, utc_today())
    kept = installation.keyring.decrypt(bytes(row["message"]), bound_to=message_binding("b"))
    assert b'"bl_stored": 1' in kept


def test_a_run_that_is_rolled_back_was_never_accepted(installation: Installation, engine: Engine) -> None:
    with engine.connect() as conn:
        insert_runs(conn, [new_run("a")], installation.keyring)
        conn.rollback()
        assert list_runs(conn, RunFilter()) == []
        assert insert_runs(conn, [new_run("a")], installation.keyring) == {"a"}


def test_marking_as_queued_takes_nothing_back(installation: Installation, engine: Engine) -> None:
    with engine.begin() as conn:
        insert_runs(conn, [new_run("a"), new_run("b")], installation.keyring)
    _write(installation, event(EventKind.STARTED, "b", worker="w", fence=1))
    with engine.begin() as conn:
        mark_queued(conn, [(utc_today(), "a"), (utc_today(), "b")], utc_now())
    with engine.connect() as conn:
        assert (run_row(conn, "a")["state"], run_row(conn, "a")["progress"]) == ("queued", 11)
        assert run_row(conn, "b")["state"] == "running"


def test_runs_are_found_by_what_they_are(installation: Installation, engine: Engine) -> None:
    now = utc_now().timestamp()
    _write(
        installation,
        accepted("old", at=now - 7200, task="collect.execute_task", queue="collect"),
        accepted("one", at=now - 60, schedule="nightly"),
        event(EventKind.FAILED, "one", at=now, error="boom"),
        accepted("two", at=now - 30, task="collect_all"),
    )

    def ids(**wanted: object) -> list[str]:
        with engine.connect() as conn:
            return [run.id for run in list_runs(conn, RunFilter(**wanted))]  # type: ignore[arg-type]  # a table of cases

    assert ids() == ["two", "one", "old"]
    assert ids(states=frozenset({RunState.FAILED, RunState.DEAD})) == ["one"]
    assert ids(task="collect.*") == ["old"]
    assert ids(task="collect_all") == ["two"]
    assert ids(task="collect%") == []
    assert ids(queue="collect") == ["old"]
    assert ids(schedule="nightly") == ["one"]
    assert ids(since=utc_now() - timedelta(hours=1)) == ["two", "one"]
    with engine.connect() as conn:
        first = list_runs(conn, RunFilter(), limit=1)[0]
        assert first.accepted_at is not None
        assert [r.id for r in list_runs(conn, RunFilter(), before=(first.accepted_at, first.id))] == ["one", "old"]
        assert open_runs(conn)["default", RunState.QUEUED].count == 1


def test_a_run_is_found_by_how_its_id_begins(installation: Installation, engine: Engine) -> None:
    _write(installation, accepted("3f2a-1"), accepted("3f2a-2"), accepted("3f2b%"), accepted("3f2b_é"), accepted("3f"))
    with engine.connect() as conn:
        assert find_run(conn, "3f2a-2").id == "3f2a-2"
        assert find_run(conn, "3f2b%").id == "3f2b%"
        assert find_run(conn, "3f2b_").id == "3f2b_é"
        assert find_run(conn, "3f").id == "3f"
        with pytest.raises(NotFoundError, match=r"Several begin so: 3f2a-1, 3f2a-2\."):
            find_run(conn, "3f2a")
        for unknown in ("3f2", "3f2c", "", "zzzz"):
            with pytest.raises(NotFoundError, match="beatline runs list"):
                find_run(conn, unknown)


def test_a_run_shows_its_attempts(installation: Installation, engine: Engine) -> None:
    _write(
        installation,
        accepted("a"),
        event(EventKind.STARTED, "a", worker="w1", fence=1),
        event(EventKind.RETRIED, "a", worker="w1", fence=1, error="again", traceback="Traceback …"),
        accepted("a", attempt=2),
        event(EventKind.STARTED, "a", attempt=2, worker="w2", fence=2),
    )
    with engine.connect() as conn:
        run, found = find_run(conn, "a"), attempts_of(conn, "a")
    assert (run.state, run.attempt, run.worker, run.error) == (RunState.RUNNING, 2, "w2", None)
    assert [(a.attempt, a.outcome, a.worker, a.error) for a in found] == [
        (1, "retried", "w1", "again"),
        (2, None, "w2", None),
    ]
    assert message("a").run_id == run.id
