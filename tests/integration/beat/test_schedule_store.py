"""Schedules in PostgreSQL: every change is whole, audited, and visible to Beat in order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, RowMapping, select, update

from beatline.errors import ConflictError, DefinitionError, NotFoundError
from beatline.families import Family, OwnSchedule
from beatline.installation import Installation
from beatline.ledger.model import audit, occurrences, runs, schedules
from beatline.schedules import store
from beatline.schedules.model import read_spec
from beatline.schedules.run_now import run_now
from beatline.schedules.store import Put
from support.serving import MakeSettings


@pytest.fixture
def conn(installation: Installation) -> Iterator[Connection]:
    with installation.engine.begin() as conn:
        yield conn


def every_minute(name: str = "minutely", **more: Any) -> Any:
    return read_spec(name, {"task": "demo.tick", "every": "60s", **more})


def be_behind(conn: Connection, name: str, **by: float) -> datetime:
    """As if Beat had been away for so long."""
    since = datetime.now(UTC) - timedelta(**by)
    trigger = {"type": "interval", "every_s": 60.0, "tz": "UTC", "start": since.isoformat().replace("+00:00", "Z")}
    conn.execute(update(schedules).where(schedules.c.name == name).values(decided_until=since, trigger=trigger))
    return since


def outcomes(conn: Connection) -> list[RowMapping]:
    return list(conn.execute(select(occurrences).order_by(occurrences.c.slot)).mappings())


def test_a_new_schedule_is_anchored_and_decided_until_now(conn: Connection) -> None:
    before = datetime.now(UTC)
    made = store.add(conn, every_minute(), who="ann")
    start = datetime.fromisoformat(made.trigger["start"])
    assert before <= start == made.decided_until <= datetime.now(UTC)
    assert store.get(conn, "minutely") == store.get(conn, str(made.id)) == made
    entry = conn.execute(select(audit)).mappings().one()
    assert (entry["who"], entry["action"], entry["name"], entry["before"]) == ("ann", "add", "minutely", None)
    assert entry["after"]["task"] == "demo.tick"


def test_secrets_in_kwargs_do_not_reach_the_audit(conn: Connection) -> None:
    store.add(conn, every_minute(kwargs={"api_key": "hunter2", "page": 3}), who="ann")
    after = conn.execute(select(audit.c.after)).scalar_one()
    assert after["kwargs"] == {"api_key": "***", "page": 3}


def test_a_name_is_taken_once(conn: Connection) -> None:
    store.add(conn, every_minute(), who="ann")
    with pytest.raises(ConflictError, match="There is a schedule 'minutely' already"):
        store.add(conn, every_minute(), who="ann")


def test_an_unknown_name_is_answered_with_close_ones(conn: Connection) -> None:
    store.add(conn, every_minute(), who="ann")
    with pytest.raises(NotFoundError, match="Did you mean minutely"):
        store.get(conn, "minutly")


@pytest.mark.parametrize("when", [{"at": "2020-01-01T00:00"}, {"cron": "0 0 31 2 *"}])
def test_what_would_never_run_is_refused(conn: Connection, when: dict[str, str]) -> None:
    with pytest.raises(DefinitionError, match=r"never run|never comes"):
        store.add(conn, read_spec("dead", {"task": "demo.tick", **when}), who="ann")


def test_putting_the_same_again_changes_nothing(conn: Connection) -> None:
    made, first = store.put(conn, every_minute(), who="file", owner="file")
    again, second = store.put(conn, every_minute(), who="file", owner="file")
    assert (first, second) == (Put.ADDED, Put.UNCHANGED)
    assert again == made
    assert store.differences(made, every_minute()) == {}


def test_a_changed_trigger_does_not_fire_for_the_past(conn: Connection) -> None:
    made = store.add(conn, every_minute(), who="ann")
    since = be_behind(conn, "minutely", minutes=3.5)
    changed, what = store.put(conn, every_minute(every="5m"), who="file", owner="file")

    assert what is Put.CHANGED
    assert (changed.version, changed.owner, changed.id) == (made.version + 1, "file", made.id)
    assert changed.decided_until > since + timedelta(minutes=3.5)
    [row] = outcomes(conn)
    assert (row["outcome"], row["slots"], row["reason"]) == ("skipped", 3, "the schedule was changed")
    assert row["slot"] == since + timedelta(minutes=1)
    assert row["last_slot"] == since + timedelta(minutes=3)


def test_a_change_of_arguments_keeps_the_phase_and_what_is_due(conn: Connection) -> None:
    store.add(conn, every_minute(), who="ann")
    since = be_behind(conn, "minutely", minutes=3)
    changed, _ = store.put(conn, every_minute(args=[1]), who="ann", owner="operator")
    assert changed.decided_until == since
    assert changed.args == [1]
    assert outcomes(conn) == []


def test_a_pause_skips_what_was_due_and_resuming_does_not_burst(conn: Connection) -> None:
    store.add(conn, every_minute(), who="ann")
    be_behind(conn, "minutely", minutes=2.5)
    paused = store.pause(conn, "minutely", who="ann", reason="holidays")
    assert (paused.paused_by, paused.pause_reason, paused.live) == ("ann", "holidays", False)
    assert [(row["outcome"], row["slots"]) for row in outcomes(conn)] == [("skipped", 2)]

    be_behind(conn, "minutely", minutes=90)  # a long pause
    resumed = store.resume(conn, "minutely", who="bob")
    assert resumed.live
    assert resumed.decided_until >= resumed.updated_at
    assert len(outcomes(conn)) == 1
    actions = conn.execute(select(audit.c.who, audit.c.action).order_by(audit.c.id)).all()
    assert [tuple(row) for row in actions] == [("ann", "add"), ("ann", "pause"), ("bob", "resume")]


def test_pausing_twice_and_resuming_what_runs_are_errors(conn: Connection) -> None:
    store.add(conn, every_minute(), who="ann")
    with pytest.raises(ConflictError, match="neither paused nor quarantined"):
        store.resume(conn, "minutely", who="ann")
    store.pause(conn, "minutely", who="ann")
    with pytest.raises(ConflictError, match=r"paused already, since .* by ann"):
        store.pause(conn, "minutely", who="bob")


def test_an_operators_pause_survives_a_new_definition(conn: Connection) -> None:
    store.put(conn, every_minute(), who="code", owner="code")
    store.pause(conn, "minutely", who="ann", reason="broken feed")
    changed, _ = store.put(conn, every_minute(every="2m"), who="code", owner="code")
    assert (changed.paused_by, changed.pause_reason) == ("ann", "broken feed")


def test_a_removed_schedule_leaves_a_tombstone_and_its_name_is_free(conn: Connection) -> None:
    made = store.add(conn, every_minute(), who="ann")
    gone = store.remove(conn, "minutely", who="ann")
    assert store.find(conn, "minutely") is None
    assert store.list_schedules(conn) == []
    assert [row.removed_at for row in store.changes_since(conn, made.revision)] == [gone.removed_at]

    again = store.add(conn, every_minute(), who="bob")
    assert again.id != made.id
    assert again.revision > gone.revision
    assert store.list_schedules(conn) == [again]


def test_a_quarantined_schedule_is_released_once_it_makes_sense(conn: Connection) -> None:
    made = store.add(conn, every_minute(), who="ann")
    assert store.quarantine(conn, made, "no such queue", who="beat")
    assert not store.quarantine(conn, made, "no such queue", who="beat")
    be_behind(conn, "minutely", minutes=2.5)

    released = store.resume(conn, "minutely", who="ann")
    assert released.live
    [row] = outcomes(conn)
    assert (row["outcome"], row["reason"], row["slots"]) == ("refused", "no such queue", 2)


def test_a_quarantine_whose_reason_stands_is_not_released(conn: Connection) -> None:
    made = store.add(conn, every_minute(), who="ann")
    store.quarantine(conn, made, "its zone vanished", who="beat")
    broken = {**made.trigger, "tz": "Mars/Base"}
    conn.execute(update(schedules).where(schedules.c.name == "minutely").values(trigger=broken))
    with pytest.raises(DefinitionError, match="no time zone 'Mars/Base'"):
        store.resume(conn, "minutely", who="ann")


def test_what_is_no_schedule_is_listed_with_its_reason_and_can_be_removed(conn: Connection) -> None:
    assert store.keep_broken(conn, "a:b\n", "its name holds a colon", who="beat", owner="redbeat")
    assert not store.keep_broken(conn, "a:b\n", "its name holds a colon", who="beat", owner="redbeat")
    [row] = store.list_schedules(conn)
    assert (row.name, row.quarantined) == ("a:b\n", "its name holds a colon")
    store.remove(conn, "a:b\n", who="ann")
    assert store.list_schedules(conn) == []


def test_revisions_become_visible_in_order_whoever_writes(installation: Installation) -> None:
    def write(number: int) -> int:
        with installation.engine.begin() as conn:
            return store.add(conn, every_minute(f"s{number}"), who="ann").revision

    seen, read = 0, list[int]()
    with ThreadPoolExecutor(8) as pool:
        written = [pool.submit(write, number) for number in range(40)]
        while len(read) < 40:
            with installation.engine.connect() as conn:
                page = store.changes_since(conn, seen, limit=7)
            read += [row.revision for row in page]
            seen = read[-1] if read else 0
        assert sorted(future.result() for future in written) == read == list(range(1, 41))


def test_schedules_that_families_bring_stand_unless_an_operator_said_otherwise(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brings(*schedules: OwnSchedule) -> None:
        family = Family(name="mine", queue="default", modules=(), schedules=schedules)
        monkeypatch.setattr(store, "families", lambda: {"mine": family})

    brings(*(OwnSchedule(name, "mine.tick", "0 3 * * *") for name in ("a", "paused", "removed", "changed")))
    assert store.ensure_own(conn) == ["a", "paused", "removed", "changed"]
    assert store.ensure_own(conn) == []
    store.pause(conn, "paused", who="ann", reason="never")
    store.remove(conn, "removed", who="ann")
    store.put(conn, read_spec("changed", {"task": "mine.tick", "cron": "0 9 * * *"}), who="ann", owner="operator")

    brings(*(OwnSchedule(name, "mine.tick", "0 5 * * *") for name in ("a", "paused", "removed", "changed", "new")))
    assert store.ensure_own(conn) == ["new"]
    crons = {row.name: (row.trigger["expr"], row.pause_reason) for row in store.list_schedules(conn)}
    assert crons == {
        "a": ("0 5 * * *", None), "paused": ("0 5 * * *", "never"), "changed": ("0 9 * * *", None),
        "new": ("0 5 * * *", None),
    }  # fmt: skip


def test_a_run_asked_for_while_redis_is_away_stands(make_settings: MakeSettings) -> None:
    settings = make_settings(redis_url="redis://127.0.0.1:1/0", result_url="redis://127.0.0.1:1/0")
    installation = Installation(settings)
    with installation.engine.begin() as conn:
        store.add(conn, every_minute(), who="ann")
    run_id = run_now(installation, "minutely", who="ann")
    with installation.engine.connect() as conn:
        run = conn.execute(select(runs)).mappings().one()
        assert (run["id"], run["state"], run["schedule"]) == (run_id, "accepted", "minutely")
        assert conn.execute(select(audit.c.action).order_by(audit.c.id)).scalars().all() == ["add", "run-now"]
