"""An expiry that is none, or has passed, is refused in words; what is still to come is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beatline.engine.expiry import check
from beatline.errors import DelayError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "expires",
    [
        1,
        0.5,
        timedelta(days=365).total_seconds(),
        NOW + timedelta(seconds=1),
        "2026-11-22T12:00:01+00:00",
        "2026-11-23",
    ],
)
def test_a_time_that_is_to_come_is_accepted(expires: Any) -> None:
    check(expires, NOW)


@pytest.mark.parametrize(
    ("expires", "wrong"),
    [
        (0, "has passed before anything can begin"),
        (-5, "has passed before anything can begin"),
        (float("nan"), "has passed before anything can begin"),
        (float("inf"), "after the year 9999"),
        (NOW - timedelta(seconds=1), "has passed already"),
        ("2026-11-22T11:59:59", "has passed already"),
        ("soon", "is no time"),
        (True, "is no time"),
        (timedelta(hours=1), "is no time"),
        (object(), "is no time"),
    ],
)
def test_any_other_is_refused_with_its_field(expires: Any, wrong: str) -> None:
    with pytest.raises(DelayError, match=f"^expires=.* {wrong}.*: nothing was sent; give seconds from now") as refused:
        check(expires, NOW)
    assert refused.value.field == "expires"
