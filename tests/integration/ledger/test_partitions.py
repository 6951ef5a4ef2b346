"""Days come and go: partitions ahead, rows of days that had none, and the end of old days."""

from __future__ import annotations

import threading
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

from beatline.clock import utc_now, utc_today
from beatline.ledger import partitions
from beatline.ledger.database import open_engine
from beatline.ledger.events import Event
from beatline.ledger.intake import Entry
from beatline.ledger.partitions import ensure
from beatline.ledger.retention import prune
from beatline.ledger.states import EventKind
from beatline.ledger.store import insert_runs
from beatline.ledger.stream import EventStream
from beatline.ledger.write import write
from support.ledger import accepted, event, moment, new_run, rows, tell

if TYPE_CHECKING:
    from beatline.installation import Installation

_TODAY = utc_today()


@pytest.fixture
def engine(installation: Installation) -> Engine:
    return open_engine(installation.settings)


def _write(installation: Installation, *events: Event) -> None:
    entries = [Entry(f"{number}-0", one.to_json()) for number, one in enumerate(events)]
    assert write(installation.engine, entries, installation.keyring) == 0


def _where(engine: Engine, table: str, key: str = "id") -> dict[str, str]:
    """In which partition each run lies."""
    with engine.connect() as conn:
        query = "SELECT KEY AS id, CAST(tableoid AS regclass) AS part FROM beatline.TABLE"
        found = conn.execute(text(query.replace("KEY", key).replace("TABLE", table)))
        return {row.id: str(row.part).rpartition(".")[2] for row in found}


def test_midnight_with_the_recorder_stopped_loses_nothing(installation: Installation, engine: Engine) -> None:
    """Workers go on for a week that nobody made partitions for; the recorder comes back on the last day."""
    days = [_TODAY + timedelta(days=n) for n in range(8)]
    for day in days:
        at = moment(day, 23)
        run_id = f"run-{day:%m%d}"
        tell(
            installation,
            [
                accepted(run_id, day=day, at=at),
                event(EventKind.STARTED, run_id, day=day, at=at + 1, worker="w@x", fence=1),
                # It ends after midnight, and stays on the day it was accepted.
                event(EventKind.SUCCEEDED, run_id, day=day, at=at + 7200, worker="w@x", fence=1),
            ],
        )
    stream = EventStream(installation.redis, installation.keys)
    stream.ensure_group()
    while entries := stream.read():
        write(engine, entries, installation.keyring)
        stream.done(entries)

    before = _where(engine, "runs")
    assert [before[f"run-{day:%m%d}"] for day in days[:4]] == [f"runs_{day:%Y%m%d}" for day in days[:4]]
    assert {before[f"run-{day:%m%d}"] for day in days[4:]} == {"runs_default"}
    with engine.connect() as conn:
        as_told = rows(conn, "runs"), rows(conn, "attempts"), rows(conn, "run_days")

    with engine.begin() as conn:
        made = ensure(conn, days[-1])
    assert f"runs_{days[4]:%Y%m%d}" in made
    assert f"runs_{days[-1] + timedelta(days=3):%Y%m%d}" in made

    for table, key in (("runs", "id"), ("attempts", "run_id")):
        assert _where(engine, table, key) == {f"run-{day:%m%d}": f"{table}_{day:%Y%m%d}" for day in days}
    with engine.connect() as conn:
        assert (rows(conn, "runs"), rows(conn, "attempts"), rows(conn, "run_days")) == as_told
        assert {row["id"]: row["day"] for row in as_told[2]} == {f"run-{day:%m%d}": day for day in days}


def test_a_past_day_is_made_only_where_the_default_partition_holds_it(
    installation: Installation, engine: Engine
) -> None:
    late, gone = _TODAY - timedelta(days=2), _TODAY - timedelta(days=20)
    _write(installation, accepted("late", day=late), accepted("gone", day=gone))
    with engine.begin() as conn:
        assert ensure(conn, _TODAY, behind=5) == [f"runs_{late:%Y%m%d}"]
        assert ensure(conn, _TODAY, behind=5) == []
    assert _where(engine, "runs") == {"late": f"runs_{late:%Y%m%d}", "gone": "runs_default"}


def test_writers_go_on_while_partitions_are_made(installation: Installation, engine: Engine) -> None:
    """Runs of the very day that is being made are written all the while, and each is there once."""
    day = _TODAY + timedelta(days=5)
    stop = threading.Event()
    written: list[str] = []
    failed: list[Exception] = []

    def keep_writing() -> None:
        while not stop.is_set():
            run_id = f"run-{len(written)}"
            try:
                with engine.begin() as conn:
                    insert_runs(conn, [new_run(run_id, day=day)], installation.keyring)
            except Exception as exc:  # noqa: BLE001  # whatever it is, the test shows it
                failed.append(exc)
                return
            written.append(run_id)
            if len(written) == 20:
                ready.set()

    ready = threading.Event()
    writer = threading.Thread(target=keep_writing)
    writer.start()
    ready.wait(10)
    with engine.begin() as conn:
        ensure(conn, day)
    stop.set()
    writer.join()
    assert failed == []
    assert set(_where(engine, "runs")) == set(written)
    assert set(_where(engine, "runs").values()) == {f"runs_{day:%Y%m%d}"}


def _history(installation: Installation, day: date) -> None:
    """One run of each kind, on one day."""
    at = moment(day)
    ended: dict[str, Any] = {"worker": "w@x", "fence": 1}
    events: list[Event] = []
    for kind in (EventKind.SUCCEEDED, EventKind.FAILED, EventKind.DEAD):
        run_id = f"{kind}-{day:%m%d}"
        events += [accepted(run_id, day=day, at=at), event(kind, run_id, day=day, at=at + 1, **ended)]
    events += [
        accepted(f"open-{day:%m%d}", day=day, at=at),
        event(EventKind.LOST, f"open-{day:%m%d}", day=day, at=at, worker="w@x"),
    ]
    _write(installation, *events)


def _two_days(installation: Installation, engine: Engine, old: date, young: date) -> None:
    for day in (old, young):
        _history(installation, day)
    with engine.begin() as conn:
        ensure(conn, _TODAY, behind=40)


def test_old_days_go_and_what_needs_someone_stays(installation: Installation, engine: Engine) -> None:
    old, young = _TODAY - timedelta(days=31), _TODAY - timedelta(days=30)
    _two_days(installation, engine, old, young)

    pruned = prune(engine, 30, _TODAY)

    assert (pruned.days, pruned.kept, pruned.late, pruned.busy) == ([old], 2, 0, [])
    stays = {f"dead-{old:%m%d}": "runs_default", f"open-{old:%m%d}": "runs_default"}
    of_young = {f"{kind}-{young:%m%d}": f"runs_{young:%Y%m%d}" for kind in ("succeeded", "failed", "dead", "open")}
    assert _where(engine, "runs") == stays | of_young
    assert set(_where(engine, "attempts", "run_id")) == {*stays, *of_young}
    assert set(_where(engine, "run_days")) == {*stays, *of_young}
    with engine.connect() as conn:
        assert old not in partitions.days_of(conn, "runs")
    assert prune(engine, 30, _TODAY).days == []

    # What ended since goes too, and the dead stay.
    _write(installation, event(EventKind.SUCCEEDED, f"open-{old:%m%d}", day=old, attempt=2, worker="w@x", fence=2))
    assert prune(engine, 30, _TODAY).late == 1
    kept = {f"dead-{old:%m%d}", *of_young}
    assert (
        set(_where(engine, "runs"))
        == set(_where(engine, "attempts", "run_id"))
        == set(_where(engine, "run_days"))
        == kept
    )


def test_who_has_a_clock_that_is_ahead_drops_no_day_too_early(installation: Installation, engine: Engine) -> None:
    old, young = _TODAY - timedelta(days=31), _TODAY - timedelta(days=29)
    _two_days(installation, engine, old, young)
    assert prune(engine, 30, _TODAY + timedelta(days=400)).days == [old]


def test_a_pruning_that_was_broken_off_is_completed(installation: Installation, engine: Engine) -> None:
    old = _TODAY - timedelta(days=40)
    _history(installation, old)
    with engine.begin() as conn:
        ensure(conn, _TODAY, behind=50)
        for table in ("runs", "attempts"):  # as far as it had come
            conn.execute(text(f"ALTER TABLE beatline.{table} DETACH PARTITION beatline.{table}_{old:%Y%m%d}"))
    assert prune(engine, 30, _TODAY).days == [old]
    assert _where(engine, "runs") == {}
    assert _where(engine, "run_days") == {}


def test_a_day_in_use_stays_until_the_next_time(installation: Installation, engine: Engine) -> None:
    old = _TODAY - timedelta(days=31)
    _history(installation, old)
    with engine.begin() as conn:
        ensure(conn, _TODAY, behind=40)
    with engine.begin() as reader:
        reader.execute(text("SELECT count(*) FROM beatline.runs"))
        pruned = prune(engine, 30, _TODAY)
        assert (pruned.days, pruned.busy) == ([], [old])
    assert prune(engine, 30, _TODAY).days == [old]


def test_the_clock_of_the_database_is_not_asked(engine: Engine) -> None:
    """`today` is what the caller says, so that a test can stand on any day."""
    far = utc_now().date() + timedelta(days=400)
    with engine.begin() as conn:
        assert f"runs_{far:%Y%m%d}" in ensure(conn, far)
