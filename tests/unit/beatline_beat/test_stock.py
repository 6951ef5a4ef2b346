"""Celery's and RedBeat's schedule objects against our triggers: the same times, or a refusal."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from celery import Celery
from celery.schedules import BaseSchedule
from hypothesis import given
from hypothesis import strategies as st

from beatline.errors import DefinitionError
from beatline.schedules.model import Cron, Date, Interval, Trigger
from beatline.schedules.triggers import next_slot
from beatline_beat import seams
from beatline_beat.adopt import fitting_name
from beatline_beat.entries import Ext, digest, meta_json, run_count
from beatline_beat.seams import JSONEncoder, RedBeatSchedulerEntry, crontab, rrule, schedule
from beatline_beat.stock import last_run_of, raw_trigger, stock_of, unsupported_options

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{pair[0]}-{pair[1]}")  # Celery wraps 22-2 around
    return st.one_of(
        st.just("*"),
        st.integers(2, 15).map(lambda step: f"*/{step}"),
        st.lists(st.one_of(number.map(str), span), min_size=1, max_size=3).map(",".join),
    )


@given(fields(0, 59), fields(0, 23), fields(1, 28), fields(1, 12), fields(0, 6), st.booleans())
def test_a_crontab_has_the_same_times_in_celery_and_here(
    minute: str, hour: str, day: str, month: str, weekday: str, by_day: bool
) -> None:
    stock = crontab(minute, hour, "*" if by_day else weekday, day if by_day else "*", month)
    ours = Cron.model_validate(raw_trigger(stock, None))
    upcoming = next_slot(ours, NOON)
    assert upcoming is not None

    celery_says: Any = stock
    celery_says.nowfun = lambda: NOON
    celery_says.app = Celery(set_as_current=False)
    assert NOON + celery_says.remaining_estimate(NOON) == upcoming


@given(fields(0, 59), fields(0, 23), fields(1, 28), fields(0, 7))
def test_an_entry_gives_stock_redbeat_our_next_slot(minute: str, hour: str, day: str, weekday: str) -> None:
    try:
        trigger = Cron(expr=f"{minute} {hour} {day} * {weekday}")
    except ValueError:
        return  # cron has no 22-2
    upcoming = next_slot(trigger, NOON)
    assert upcoming is not None
    assert stock_next(trigger, upcoming) == upcoming


@pytest.mark.parametrize(
    "trigger",
    [
        Interval(every_s=90, start=NOON - timedelta(seconds=30)),
        Cron(expr="0 9 * * *", tz="Asia/Shanghai"),
        Cron(expr="*/10 * * * * *"),
        Cron(expr="0 0 L * *"),
        Cron(expr="0 0 * * MON#1"),
        Cron(expr="0 0 1 * 1"),
        Date(at=NOON + timedelta(hours=3)),
    ],
)
def test_every_kind_of_trigger_has_a_stock_form(trigger: Trigger) -> None:
    upcoming = next_slot(trigger, NOON)
    assert upcoming is not None
    assert stock_next(trigger, upcoming) == upcoming


def stock_next(trigger: Trigger, upcoming: datetime) -> datetime:
    """The next time that stock RedBeat computes from what we store, at noon."""
    text = json.dumps(stock_of(trigger, upcoming), cls=JSONEncoder)
    stock: Any = RedBeatSchedulerEntry.decode_definition(text)
    stock.nowfun = lambda: NOON
    stock.app = Celery(set_as_current=False)
    last_run_at = last_run_of(trigger, NOON, upcoming)
    # Against last_run_at's own zone, as RedBeat does; for an interval the estimate counts from now.
    found: datetime = NOON + stock.remaining_estimate(last_run_at)
    return found


def test_numbers_and_timedeltas_are_intervals() -> None:
    for stock in (300, 300.0, timedelta(minutes=5), schedule(300)):
        assert raw_trigger(stock, NOON) == {"type": "interval", "every_s": 300.0, "start": NOON}
        assert "start" not in raw_trigger(stock, None)


class Lunar(BaseSchedule):
    """A schedule of a kind that nobody knows."""


@pytest.mark.parametrize(
    ("stock", "said"),
    [
        (True, "true and false"),
        (None, "NoneType is not supported"),
        (Lunar(), "Lunar is not supported"),
        (crontab("0", "0", "1", "1-7"), "MON#1 is the first Monday"),
        (rrule(5, dtstart=NOON), "count=1 only"),
    ],
)
def test_what_has_no_counterpart_is_refused(stock: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        raw_trigger(stock, None)


def test_options_that_are_not_kept_are_named() -> None:
    assert unsupported_options({"queue": "q", "priority": 3, "expires": 5, "countdown": None}) == ["expires"]


@pytest.mark.parametrize("name", ["add every 10 (s)", "a:b", "", "proj.tasks.add(2, 'x')", "\ud800", "x" * 300])
def test_a_name_of_beat_schedule_is_made_to_fit_in_one_way(name: str) -> None:
    fitting = fitting_name(name)
    assert fitting == fitting_name(name) == fitting_name(fitting)
    assert fitting != fitting_name(name + " ")


def test_names_that_fit_are_kept() -> None:
    assert fitting_name("send-report.daily_2") == "send-report.daily_2"


def test_meta_and_ext_survive_what_others_wrote() -> None:
    meta = meta_json(NOON, 7)
    assert RedBeatSchedulerEntry.decode_meta(meta) == {"last_run_at": NOON, "total_run_count": 7}
    assert run_count(meta) == 7
    assert [run_count(text) for text in (None, "", "{", "[]", '{"total_run_count": "x"}')] == [0] * 5
    assert [Ext.parse(text) for text in (None, "", "{", "[]", '{"id": 5}', '{"id": "x", "version": 1}')] == [None] * 6
    assert digest("a") != digest("b")


def test_the_seams_are_what_is_installed() -> None:
    module: Any = import_module("redbeat.schedulers")
    scheduler, entry = module.RedBeatScheduler, module.RedBeatSchedulerEntry
    assert (scheduler, entry) == (seams.RedBeatScheduler, RedBeatSchedulerEntry)
    assert list(inspect.signature(scheduler.__init__).parameters)[:4] == ["self", "app", "lock_key", "lock_timeout"]
    assert {"tick", "close", "setup_schedule", "info"} <= set(dir(scheduler))
    assert {"decode_definition", "decode_meta", "from_key", "save", "due_at", "score"} <= set(dir(entry))
    assert module.acquire_distributed_beat_lock is seams.acquire_distributed_beat_lock
    for field in ("minute", "hour", "day_of_week", "day_of_month", "month_of_year"):
        found: Any = crontab(**{field: "1"})
        assert getattr(found, f"_orig_{field}") == "1"
        assert getattr(found, field) == {1}
