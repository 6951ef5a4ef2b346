"""Every slot has exactly one outcome, whatever Beat went through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline.schedules.decide import Outcome, OutcomeKind, decide, settle
from beatline.schedules.model import Cron, Date, Interval, Trigger
from beatline.schedules.triggers import CRON_LIMIT, due, next_slot, slots_after

ZONES = ("UTC", "Europe/Paris", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe", "America/Santiago")
CRONS = ("*/5 * * * *", "0 2 * * *", "30 2 * * *", "15,45 1-3 * * *", "0 9 * * 1-5", "*/20 * * * * *", "0 0 L * *")
NEAR_DST = st.sampled_from([datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC),
                            datetime(2028, 2, 28, tzinfo=UTC), datetime(2026, 4, 4, tzinfo=UTC)])  # fmt: skip


def minutes(low: float, high: float) -> st.SearchStrategy[timedelta]:
    return st.floats(low, high).map(lambda n: timedelta(minutes=n))


@st.composite
def starts(draw: st.DrawFn) -> datetime:
    return draw(NEAR_DST) + draw(minutes(0, 2880))


@st.composite
def triggers(draw: st.DrawFn) -> Trigger:
    kind = draw(st.sampled_from(("cron", "interval", "date")))
    if kind == "cron":
        return Cron(expr=draw(st.sampled_from(CRONS)), tz=draw(st.sampled_from(ZONES)))
    if kind == "interval":
        return Interval(every_s=draw(st.floats(0.5, 7200)), start=draw(starts()))
    return Date(at=draw(starts()))


def expand(trigger: Trigger, outcomes: list[Outcome]) -> list[tuple[datetime, OutcomeKind]]:
    """One pair a slot, from outcomes that may stand for many."""
    told: list[tuple[datetime, OutcomeKind]] = []
    for outcome in outcomes:
        slots = list(slots_after(trigger, outcome.first - timedelta(microseconds=1), outcome.last))
        assert len(slots) == outcome.count
        assert (slots[0], slots[-1]) == (outcome.first, outcome.last)
        told += [(slot, outcome.kind) for slot in slots]
    return told


@given(triggers(), starts(), st.lists(st.tuples(minutes(-90, 400), st.booleans()), max_size=25))
def test_every_slot_has_exactly_one_outcome(
    trigger: Trigger, begin: datetime, history: list[tuple[timedelta, bool]]
) -> None:
    # Given a history of ticks: each some time later (or earlier: the clock was set back), and some that crash before
    # their rows are committed
    decided_until, now, kept = begin, begin, list[Outcome]()
    for passed, crashes in history:
        now += passed
        decision = decide(trigger, decided_until, now)
        if not crashes:
            kept += decision.outcomes
            decided_until = decision.decided_until

    # Then the slots up to the last decision are told once each, in order, and nothing beside them
    told = expand(trigger, kept)
    assert [slot for slot, _ in told] == list(slots_after(trigger, begin, decided_until))
    assert all(one < other for (one, _), (other, _) in pairwise(told))


@given(triggers(), starts(), minutes(0, 3000))
def test_the_latest_due_slot_fires_and_older_ones_are_coalesced(
    trigger: Trigger, begin: datetime, away: timedelta
) -> None:
    now = begin + away
    slots = list(slots_after(trigger, begin, now))
    decision = decide(trigger, begin, now)

    if len(slots) > CRON_LIMIT and isinstance(trigger, Cron):
        assert decision.decided_until == slots[CRON_LIMIT - 1]
        return
    kinds = [kind for _, kind in expand(trigger, list(decision.outcomes))]
    assert kinds == [OutcomeKind.COALESCED] * (len(slots) - 1) + [OutcomeKind.FIRED] * bool(slots)
    assert len(decision.outcomes) <= 2
    assert decision.next_slot is None or decision.next_slot > now


@given(triggers(), starts(), minutes(0, 1000))
def test_deciding_again_gives_the_same(trigger: Trigger, begin: datetime, away: timedelta) -> None:
    assert decide(trigger, begin, begin + away) == decide(trigger, begin, begin + away)


@given(triggers(), starts(), minutes(0, 1000), minutes(0, 1000))
def test_a_change_settles_what_was_due_and_later_slots_are_decided_as_ever(
    trigger: Trigger, begin: datetime, first: timedelta, then: timedelta
) -> None:
    change = begin + first
    settled = settle(trigger, begin, change, OutcomeKind.SKIPPED, "paused")
    after = decide(trigger, change, change + then)

    told = expand(trigger, [*settled, *after.outcomes])
    assert [slot for slot, _ in told] == list(slots_after(trigger, begin, after.decided_until))
    assert all(kind is OutcomeKind.SKIPPED for slot, kind in told if slot <= change)


def test_a_clock_set_back_decides_nothing_twice() -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    trigger = Interval(every_s=60, start=noon)
    decision = decide(trigger, noon, noon - timedelta(hours=1))
    assert decision.outcomes == ()
    assert decision.decided_until == noon
    assert decision.next_slot == noon + timedelta(minutes=1)


def test_years_of_downtime_of_a_fast_interval_are_two_rows() -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    trigger = Interval(every_s=0.1, start=start)
    decision = decide(trigger, start, start + timedelta(days=3650))
    assert [outcome.count for outcome in decision.outcomes] == [3650 * 864_000 - 1, 1]
    assert decision.outcomes[0].first == start + timedelta(milliseconds=100)


def test_a_long_downtime_of_cron_is_decided_in_bounded_pieces() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    now = start + timedelta(days=10)
    trigger = Cron(expr="* * * * *")
    decided_until, rows = start, list[Outcome]()
    for _ in range(3):
        decision = decide(trigger, decided_until, now)
        rows += decision.outcomes
        decided_until = decision.decided_until
    assert [(row.kind, row.count) for row in rows] == [
        (OutcomeKind.COALESCED, CRON_LIMIT), (OutcomeKind.COALESCED, CRON_LIMIT),
        (OutcomeKind.COALESCED, 14_400 - 2 * CRON_LIMIT - 1), (OutcomeKind.FIRED, 1),
    ]  # fmt: skip
    assert rows[-1].first == now


def test_a_date_fires_once_however_late() -> None:
    at = datetime(2026, 5, 1, 9, tzinfo=UTC)
    late = decide(Date(at=at), at - timedelta(days=1), at + timedelta(days=40))
    assert [outcome.kind for outcome in late.outcomes] == [OutcomeKind.FIRED]
    assert late.next_slot is None
    assert decide(Date(at=at), late.decided_until, at + timedelta(days=41)).outcomes == ()


@pytest.mark.parametrize("tz", ZONES)
def test_slots_of_a_starred_cron_follow_the_wall_clock_through_both_changes(tz: str) -> None:
    # Given the year around, minute by minute in UTC: the wall clock of each is what the expression must match
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for day in range(0, 365, 1):
        noon = begin + timedelta(days=day)
        before, after = (moment.astimezone(ZoneInfo(tz)).utcoffset() for moment in (noon, noon + timedelta(days=1)))
        if before == after:
            continue
        expected = [slot for slot in (noon + timedelta(minutes=m) for m in range(1, 1441))
                    if slot.astimezone(ZoneInfo(tz)).minute % 20 == 0]  # fmt: skip
        assert list(slots_after(Cron(expr="*/20 * * * *", tz=tz), noon, noon + timedelta(days=1))) == expected


def test_a_fixed_time_that_is_skipped_runs_after_the_gap_and_one_that_comes_twice_runs_once() -> None:
    nightly = Cron(expr="30 2 * * *", tz="Europe/Paris")
    spring = list(slots_after(nightly, datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 30, 12, tzinfo=UTC)))
    assert spring == [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 30, 0, 30, tzinfo=UTC)]

    within_second_hour = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    assert next_slot(nightly, within_second_hour) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert next_slot(nightly, datetime(2026, 10, 24, 12, tzinfo=UTC)) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_an_interval_starts_at_its_start_and_keeps_its_phase() -> None:
    start = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
    trigger = Interval(every_s=0.25, start=start)
    assert next_slot(trigger, start - timedelta(days=1)) == start
    assert next_slot(trigger, start) == start + timedelta(milliseconds=250)
    assert next_slot(trigger, start + timedelta(days=3, milliseconds=1)) == start + timedelta(days=3, milliseconds=250)


@given(triggers(), starts(), minutes(0, 600), st.integers(1, 50))
def test_due_agrees_with_listing_the_slots(trigger: Trigger, after: datetime, span: timedelta, limit: int) -> None:
    slots = list(slots_after(trigger, after, after + span))
    found = due(trigger, after, after + span, limit)
    if not isinstance(trigger, Interval):
        assert (found is not None and found.cut) == (len(slots) > limit)
        slots = slots[:limit]
    if found is None:
        assert slots == []
        return
    assert (found.count, found.first, found.last) == (len(slots), slots[0], slots[-1])
    assert found.previous == (slots[-2] if len(slots) > 1 else None)
