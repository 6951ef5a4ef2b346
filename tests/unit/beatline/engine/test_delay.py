"""Which delays are refused, in words, and which wait in PostgreSQL."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest

from beatline.engine.delay import LONGEST_QUEUED_S, check_sent, due, waits, with_eta
from beatline.errors import DelayError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
WEST, EAST = timezone(timedelta(hours=-14)), timezone(timedelta(hours=14))


@pytest.mark.parametrize(
    ("countdown", "eta", "expected"),
    [
        (None, None, None),
        (0, None, None),
        (1.5, None, NOW + timedelta(seconds=1.5)),
        (YEAR.total_seconds(), None, NOW + YEAR),
        (None, NOW + YEAR, NOW + YEAR),
        (None, NOW - YEAR, NOW - YEAR),
        (None, datetime(2027, 1, 1, 9, tzinfo=UTC).replace(tzinfo=None), datetime(2027, 1, 1, 9, tzinfo=UTC)),
        (None, "2027-01-01T09:00:00", datetime(2027, 1, 1, 9, tzinfo=UTC)),
        (None, "2027-01-01T09:00:00+02:00", datetime(2027, 1, 1, 7, tzinfo=UTC)),
        (None, date(2027, 1, 1), datetime(2027, 1, 1, tzinfo=UTC)),
        (10, NOW + YEAR, NOW + timedelta(seconds=10)),
        (0, NOW + YEAR, NOW + YEAR),
    ],
)
def test_when_a_task_is_wanted(countdown: object, eta: object, expected: datetime | None) -> None:
    assert due(countdown, eta, NOW) == expected


@pytest.mark.parametrize(
    ("countdown", "said"),
    [
        (-1, "countdown=-1 is negative"),
        (-math.inf, "countdown=-inf is negative"),
        (math.inf, "countdown=inf never ends"),
        (math.nan, "countdown=nan never ends"),
        (True, "countdown=True is no number of seconds"),
        (False, "countdown=False is no number of seconds"),
        ("60", "countdown='60' is no number of seconds"),
        (timedelta(minutes=1), "countdown=a value of type timedelta is no number"),
        (Decimal(60), "countdown=a value of type Decimal is no number"),
        (8000 * 366 * 86400, "ends after the year 9999"),
        (1e300, "ends after the year 9999"),
        (10**400, "ends after the year 9999"),
        pytest.param(10**5000, "ends after the year 9999", id="5000 digits"),
    ],
)
def test_a_countdown_that_is_none_is_refused(countdown: object, said: str) -> None:
    with pytest.raises(DelayError) as refused:
        due(countdown, None, NOW)
    assert refused.value.field == "countdown"
    assert said in str(refused.value)
    assert "nothing was sent" in str(refused.value)


@pytest.mark.parametrize(
    "eta",
    ["tomorrow", "", 60, 0, True, False, math.nan, time(12), timedelta(1), object(), "2026-13-01", "2026-11-22T25:00",
     datetime(9999, 12, 31, 23, tzinfo=WEST), "9999-12-31T23:59:59-14:00", datetime(1, 1, 1, tzinfo=EAST)],
)  # fmt: skip
def test_an_eta_that_is_no_time_is_refused(eta: object) -> None:
    with pytest.raises(DelayError, match=r"^eta=.* nothing was sent; give a datetime") as refused:
        due(None, eta, NOW)
    assert refused.value.field == "eta"
    with pytest.raises(DelayError):
        due(5, eta, NOW)


def test_celerys_options_are_found_wherever_they_stand() -> None:
    for positional, options in (((-1,), {}), ((None, "never"), {}), ((), {"countdown": -1}), ((None,), {"eta": "x"})):
        with pytest.raises(DelayError):
            check_sent(positional, options, NOW)
    check_sent((5, None, "group"), {"expires": -1}, NOW)


def test_what_is_over_a_minute_away_waits_in_postgresql() -> None:
    limit = NOW + timedelta(seconds=LONGEST_QUEUED_S)
    assert not waits(limit.isoformat(), NOW)
    assert waits((limit + timedelta(milliseconds=1)).isoformat(), NOW)
    assert waits("2027-01-01T09:00:00", NOW)
    for never in (None, "", "tomorrow", 17, "9999-12-31T23:59:59-14:00", (NOW - YEAR).isoformat()):
        assert not waits(never, NOW)


def test_a_message_is_given_another_time() -> None:
    moved = json.loads(with_eta('{"headers": {"id": "r1", "eta": "2030-01-01T00:00:00"}, "body": "b"}', NOW))
    assert moved == {"headers": {"id": "r1", "eta": NOW.isoformat()}, "body": "b"}
    assert json.loads(with_eta('{"headers": {"eta": "2030-01-01T00:00:00"}}', None)) == {"headers": {"eta": None}}
    for nothing in ("[]", "{}", '{"headers": null}', "x"):
        with pytest.raises(ValueError, match=r"message|Expecting"):
            with_eta(nothing, NOW)
