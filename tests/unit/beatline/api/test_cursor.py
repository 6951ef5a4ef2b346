"""A cursor comes back as it went, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline.api.cursor import LONGEST, cursor_after, place_of
from beatline.errors import BeatlineError
from beatline.ledger.history import Run
from beatline.ledger.states import RunState

RUN_IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=512)
MOMENTS = st.none() | st.datetimes(timezones=st.just(UTC))


def run(run_id: str, at: datetime | None) -> Run:
    known: dict[str, Any] = {"id": run_id, "accepted_at": at, "state": RunState.QUEUED}
    return Run(**dict.fromkeys(Run.__slots__) | known)  # type: ignore[arg-type]  # what a cursor looks at


@given(RUN_IDS, MOMENTS)
def test_it_names_the_place_behind_a_run(run_id: str, at: datetime | None) -> None:
    cursor = cursor_after(run(run_id, at))
    assert place_of(cursor) == (at, run_id)
    assert cursor.isascii()


@pytest.mark.parametrize("character", ["字", "💣", "\x01", '"'])
def test_the_longest_id_has_room(character: str) -> None:
    assert len(cursor_after(run(character * 512, datetime.now(UTC)))) <= LONGEST


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "====", "not base64!", "é", encoded([]), encoded(None), encoded({"a": 1, "b": 2}), encoded([1, "x"]),
        encoded([None, ""]), encoded([None, "a\x00b"]), encoded(["yesterday", "x"]), encoded([None, 5]),
        encoded(["0001-01-01T00:00:00+14:00", "x"]), encoded([None, "x", 1]), encoded([None, "\ud800"]),
        base64.urlsafe_b64encode(b"[" * 1500).decode(),
    ],
)  # fmt: skip
def test_anything_else_is_refused(cursor: str) -> None:
    with pytest.raises(BeatlineError, match="cursor: this is none"):
        place_of(cursor)
