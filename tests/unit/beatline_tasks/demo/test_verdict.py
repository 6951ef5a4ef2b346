"""The demo's count finds what is lost and what is doubled, one of each kind."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from beatline_tasks.demo.evidence import percentile
from beatline_tasks.demo.feedlog import FeedLog, Served, completed_by_run, read_log
from beatline_tasks.demo.verdict import Evidence, judge
from beatline_tasks.demo.weather import all_days

SLOT = datetime(2026, 11, 22, 12, tzinfo=UTC)


def served(run: str, *, attempt: int = 1, status: int = 200, last: bool = True) -> Served:
    return Served(at=0.0, run=run, attempt=attempt, path="/days", status=status, rows=1, last=last)


@pytest.fixture
def sound() -> Evidence:
    """Two slots; the worker of the first run was killed in the middle, and the run came back."""
    days = all_days()
    return Evidence(
        days=days,
        stored={day.date: day for day in days},
        served=[served("r1", last=False), served("r1", attempt=2), served("r2", status=429), served("r2", status=304)],
        fired={SLOT: "r1", SLOT + timedelta(seconds=1): "r2"},
        known={"r1", "r2"},
        ended={"r1", "r2"},
        killed_run="r1",
        killed_run_attempts=2,
    )


def test_the_data_is_four_years_of_seattle() -> None:
    days = all_days()
    assert len(days) == 1461
    assert (days[0].date, days[-1].date) == (date(2012, 1, 1), date(2015, 12, 31))
    assert len({day.date for day in days}) == len(days)
    assert days[0].as_json() == {
        "date": "2012-01-01",
        "precipitation": 0.0,
        "temp_max": 12.8,
        "temp_min": 5.0,
        "wind": 4.7,
        "weather": "drizzle",
    }


def test_a_sound_run_has_nothing_lost_and_nothing_doubled(sound: Evidence) -> None:
    verdict = judge(sound)
    assert verdict.ok
    assert (verdict.lost, list(verdict.doubled), verdict.sequences) == (0, [], 2)


def test_a_day_that_is_not_in_the_dataset_is_lost(sound: Evidence) -> None:
    day = sound.days[700].date
    verdict = judge(replace(sound, stored={d: row for d, row in sound.stored.items() if d != day}))
    assert not verdict.ok
    assert verdict.lost_days == [day]
    assert verdict.problems == [f"1 of the feed's days are not in the dataset: {day}."]


def test_a_day_that_is_other_than_the_feeds_is_lost(sound: Evidence) -> None:
    day = sound.days[3]
    verdict = judge(replace(sound, stored={**sound.stored, day.date: replace(day, wind=99.0)}))
    assert (verdict.ok, verdict.lost, verdict.wrong_days) == (False, 1, [day.date])


def test_a_fired_slot_without_an_end_is_lost(sound: Evidence) -> None:
    verdict = judge(replace(sound, ended={"r1"}))
    assert (verdict.ok, verdict.lost) == (False, 1)
    assert verdict.lost_slots == [SLOT + timedelta(seconds=1)]


@pytest.mark.parametrize("again", [served("r2"), served("r2", attempt=2), served("r2", status=304)])
def test_a_run_that_completed_two_sequences_is_doubled(sound: Evidence, again: Served) -> None:
    verdict = judge(replace(sound, served=[*sound.served, again]))
    assert (verdict.ok, verdict.doubled) == (False, ["r2"])


@pytest.mark.parametrize("unfinished", [{"last": False}, {"status": 0}, {"status": 429}, {"status": 503}])
def test_a_sequence_that_broke_off_doubles_nothing(sound: Evidence, unfinished: dict[str, int]) -> None:
    one = replace(served("r2"), **unfinished)  # type: ignore[arg-type]  # values of both types
    assert judge(replace(sound, served=[*sound.served, one])).ok


def test_a_reader_without_history_is_told(sound: Evidence) -> None:
    verdict = judge(replace(sound, served=[*sound.served, served("ghost")]))
    assert verdict.problems == ["1 runs read the feed and are in no history: ghost."]


def test_the_killed_run_has_to_come_back(sound: Evidence) -> None:
    assert judge(replace(sound, killed_run=None)).problems == ["No worker was killed on the way."]
    for missing in (replace(sound, killed_run_attempts=1), replace(sound, ended={"r2"})):
        assert "The run whose worker was killed, r1, did not come back." in judge(missing).problems


def test_nothing_at_all_is_no_success(sound: Evidence) -> None:
    verdict = judge(replace(sound, stored={}, served=[], fired={}, known=set(), ended=set(), killed_run=None))
    assert verdict.lost == len(sound.days)
    assert "No run completed a sequence of pages." in verdict.problems


def test_the_log_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    log = FeedLog(tmp_path / "feed.jsonl")
    lines = [served("r1", last=False), served("r1"), served("r2", status=304)]
    for line in lines:
        log.append(line)
    log.close()
    log.append(served("late"))
    assert read_log(log.path) == lines
    assert completed_by_run(lines) == {"r1": 1, "r2": 1}


def test_percentiles() -> None:
    values = [float(n) for n in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert percentile([], 0.5) is None
