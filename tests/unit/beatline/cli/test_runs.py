"""What `beatline runs` understands and suggests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beatline.cli.runs import suggestion
from beatline.errors import BeatlineError
from beatline.ledger.history import Run, moment
from beatline.ledger.states import RunState

_NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _run(state: RunState, *, age_s: float = 3600, **facts: Any) -> Run:
    said = dict.fromkeys(Run.__slots__) | {"id": "r", "task": "t", "queue": "etl", "attempt": 1, "state": state}
    return Run(**said | {"changed_at": _NOW - timedelta(seconds=age_s)} | facts)  # type: ignore[arg-type]  # a table of cases


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15m", _NOW - timedelta(minutes=15)),
        ("2h", _NOW - timedelta(hours=2)),
        ("7D", _NOW - timedelta(days=7)),
        ("2026-11-20T08:00:00+08:00", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20).astimezone(UTC)),  # local time is what is meant
    ],
)
def test_a_moment_is_a_span_or_a_date(text: str, expected: datetime) -> None:
    assert moment(text, _NOW, "--since") == expected


@pytest.mark.parametrize("text", ["", "yesterday", "5", "-3h", "99999999999w", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(BeatlineError, match="write 15m, 2h, 7d"):
        moment(text, _NOW, "--since")


@pytest.mark.parametrize(
    ("run", "part"),
    [
        (_run(RunState.ACCEPTED), "beatline recorder"),
        (_run(RunState.LOST), "beatline recorder"),
        (_run(RunState.QUEUED), "who serves 'etl'"),
        (_run(RunState.QUEUED, eta=_NOW + timedelta(hours=1)), "waits for its time"),
        (_run(RunState.DELAYED, eta=_NOW + timedelta(hours=1)), "beatline runs move r --in 10m"),
        (_run(RunState.DELAYED, eta=_NOW - timedelta(hours=1)), "a recorder sends it"),
        (_run(RunState.FAILED), "beatline runs retry r"),
        (_run(RunState.FAILED, schedule="nightly"), "beatline runs retry r"),
        (_run(RunState.DEAD), "Someone must look"),
    ],
)
def test_a_run_that_needs_someone_says_what_to_type(run: Run, part: str) -> None:
    assert part in (suggestion(run, _NOW) or "")


@pytest.mark.parametrize(
    "run",
    [
        _run(RunState.SUCCEEDED),
        _run(RunState.RUNNING),
        _run(RunState.CANCELLED),
        _run(RunState.QUEUED, age_s=2),
        _run(RunState.ACCEPTED, age_s=2),
    ],
)
def test_a_run_that_is_well_needs_nothing(run: Run) -> None:
    assert suggestion(run, _NOW) is None
