"""What a person writes is read, or refused in a sentence that names the field."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline.errors import DefinitionError
from beatline.schedules.model import ARGS_LIMIT_BYTES, Cron, Date, Interval, ScheduleSpec, anchored, read_spec
from beatline.schedules.triggers import in_people_words
from beatline.schedules.zones import in_words, read_duration_s


def spec(**raw: Any) -> ScheduleSpec:
    return read_spec("job", {"task": "demo.tick", **raw})


def test_the_flat_form_and_the_nested_one_mean_the_same() -> None:
    flat = spec(every="5m", start="2026-01-01T09:00", tz="Asia/Shanghai", args=["a"], queue=None)
    nested = spec(
        trigger={"type": "interval", "every_s": 300, "start": "2026-01-01T01:00:00Z", "tz": "Asia/Shanghai"}, args=["a"]
    )
    assert flat == nested


@pytest.mark.parametrize(
    ("raw", "stored"),
    [
        ({"cron": " 0  2 * * * "}, {"type": "cron", "expr": "0 2 * * *", "tz": "UTC"}),
        ({"cron": "*/10 * * * * *"}, {"type": "cron", "expr": "*/10 * * * * *", "tz": "UTC"}),
        ({"every": 0.25}, {"type": "interval", "every_s": 0.25, "tz": "UTC"}),
        ({"at": "2027-07-01T09:00", "tz": "Europe/Paris"},
         {"type": "date", "at": "2027-07-01T07:00:00Z", "tz": "Europe/Paris"}),
        ({"at": datetime(2027, 7, 1, 9), "tz": "Europe/Paris"},  # noqa: DTZ001  # as TOML has a local time
         {"type": "date", "at": "2027-07-01T07:00:00Z", "tz": "Europe/Paris"}),
        ({"at": "2027-07-01T09:00+09:00", "tz": "Europe/Paris"},
         {"type": "date", "at": "2027-07-01T00:00:00Z", "tz": "Europe/Paris"}),
        ({"at": "2026-10-25T02:30", "tz": "Europe/Paris"},  # comes twice: the first is meant
         {"type": "date", "at": "2026-10-25T00:30:00Z", "tz": "Europe/Paris"}),
    ],
)  # fmt: skip
def test_a_trigger_is_stored_in_utc_and_read_back(raw: dict[str, Any], stored: dict[str, Any]) -> None:
    made = spec(**raw)
    assert made.stored_trigger == stored
    assert spec(trigger=made.stored_trigger) == made


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"cron": "* * *"}, "cron: '* * *' has 3 fields; cron has 5, or 6 with seconds first"),
        ({"cron": "61 * * * *"}, "cron: bad minute '61'"),
        ({"cron": "* 24 * * *"}, "cron: bad hour '24'"),
        ({"cron": "* * 32 * *"}, "cron: bad day-of-month '32'"),
        ({"cron": "* * * 13 *"}, "cron: bad month '13'"),
        ({"cron": "* * * * MOO"}, "cron: bad day-of-week 'MOO'"),
        ({"cron": "99 * * * * *"}, "cron: bad second '99'"),
        ({"cron": "*/0 * * * *"}, "cron: bad minute '*/0'"),
        ({"cron": "0 0 30 2 *"}, "cron: '0 0 30 2 *' never comes: no month 2 has a day 30"),
        ({"cron": 5}, "cron: Input should be a valid string"),
        ({"cron": "0 2 * * *", "tz": "Asia/Shanghia"}, "tz: there is no time zone 'Asia/Shanghia'; did you mean"),
        ({"cron": "0 2 * * *", "tz": "../etc/passwd"}, "tz: there is no time zone"),
        ({"every": "5 parsecs"}, "every: '5 parsecs' is not a duration; durations look like 30s"),
        ({"every": 0}, "every: an interval is between 0.1 s and ten years, not 0 s"),
        ({"every": "nan"}, "every: an interval is between"),
        ({"every": True}, "every: true and false are no duration"),
        ({"every": [5]}, "every: a duration is a number of seconds or text"),
        ({"every": "5m", "start": "soon"}, "start: 'soon' is not a date"),
        ({"at": "2027-02-29T00:00"}, "at: '2027-02-29T00:00' is not a date"),
        ({"at": 20270101}, "at: a date is text in ISO 8601"),
        ({"at": "0001-01-01T00:00"}, "at: the year 1 is not between 1970 and 2199"),
        ({"at": "2027-03-28T02:30", "tz": "Europe/Paris"}, "does not exist in Europe/Paris: the clock goes forward"),
        ({}, "it runs when? give one of cron, every and at"),
        ({"every": 5, "trigger": {}}, "trigger and every both say when it runs"),
        ({"trigger": {"type": "lunar"}}, "a trigger's type is cron, interval or date"),
        ({"every": 5, "args": {"a": 1}}, 'args is a JSON list, such as ["weather"]'),
        ({"every": 5, "kwargs": [1]}, "kwargs is a JSON object"),
        ({"every": 5, "args": [date(2026, 1, 1)]}, "args[0] is a date, which JSON cannot hold"),
        ({"every": 5, "args": [float("inf")]}, "args[0] is inf"),
        ({"every": 5, "kwargs": {"a": {"b": "x\x00"}}}, "kwargs.a.b holds a NUL character"),
        ({"every": 5, "kwargs": {"a": "\ud800"}}, "kwargs.a holds half a surrogate pair"),
        ({"every": 5, "kwargs": {"a\x00": 1}}, "a key of kwargs holds a NUL character"),
        ({"every": 5, "kwargs": {1: 1}}, "kwargs has the key 1; keys are text"),
        ({"every": 5, "args": ["x" * ARGS_LIMIT_BYTES]}, "65,536 are accepted: store the data and pass its id"),
        ({"every": 5, "priority": 10}, "priority: Input should be less than or equal to 9"),
        ({"every": 5, "queue": "a b"}, "The queue name 'a b' is not allowed"),
        ({"every": 5, "task": "a b"}, "The task name 'a b' is not allowed"),
        ({"every": 5, "colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_nonsense_is_refused_by_its_field(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        spec(**raw)
    assert str(refused.value).startswith("Schedule 'job': ")
    assert said in str(refused.value)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(DefinitionError) as refused:
        read_spec("a:b", {"task": "x y", "cron": "0 99 * * *", "tz": "Mars/Base", "priority": -1})
    for field in ("schedule name 'a:b'", "task name 'x y'", "bad hour '99'", "'Mars/Base'", "priority: "):
        assert field in str(refused.value)


def test_arguments_nested_too_deep_are_refused_not_recursed_into() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(DefinitionError, match="nested deeper than 64 levels"):
        spec(every=5, args=nested)


def test_an_interval_without_a_start_is_anchored_now_and_keeps_its_anchor() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    first = anchored(spec(every=60), now)
    assert first.trigger == Interval(every_s=60, start=now)
    later = now + timedelta(days=1)
    assert anchored(spec(every=60), later, first.stored_trigger) == first
    assert anchored(spec(every=61), later, first.stored_trigger).trigger == Interval(every_s=61, start=later)
    assert anchored(spec(cron="* * * * *"), now).trigger == Cron(expr="* * * * *")


@given(st.floats(0.1, 3e8))
def test_a_duration_in_words_means_the_same(seconds: float) -> None:
    rounded = round(seconds, 3)
    assert read_duration_s(in_words(timedelta(seconds=rounded))) == pytest.approx(rounded, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1h30m", 5400), ("250ms", 0.25), ("2w", 1_209_600), ("1.5 H", 5400), (7, 7)]
)
def test_durations_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert read_duration_s(text) == seconds


def test_triggers_in_words() -> None:
    assert in_people_words(Cron(expr="0 2 * * 1-5")) == "at 02:00 on Monday through Friday"
    assert in_people_words(Interval(every_s=5400)) == "every 1h30m"
    assert (
        in_people_words(Date(at=datetime(2027, 1, 1, 1, tzinfo=UTC), tz="Asia/Shanghai")) == "once at 2027-01-01 09:00"
    )
