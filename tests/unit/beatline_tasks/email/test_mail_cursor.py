"""How far a folder was read, what is read at once, and what is known under another number."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline_tasks.email.backoff import next_try
from beatline_tasks.email.cursor import Position, batches, matched, position_of, with_position
from beatline_tasks.email.errors import Trouble
from beatline_tasks.email.session import Listed, compressed, grouped, moment_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def listed(uid: int, size_bytes: int = 100, message_id: str | None = None) -> Listed:
    return Listed(uid, size_bytes, NOW, message_id)


def test_a_position_is_kept_beside_those_of_other_folders() -> None:
    first, second = Position(7, 3), Position(8, 5, 9, NOW, known_to=7)
    state = with_position(with_position({"other": 1}, "INBOX", first), "Ünïcode", second)
    assert position_of(state, "INBOX") == first
    assert position_of(state, "Ünïcode") == second
    assert position_of(state, "Sent") is None
    assert state["other"] == 1
    assert not first.rematching
    assert second.rematching
    assert not second.reached(9).rematching
    assert second.reached(2) == second


@given(st.lists(st.integers(0, 60)), st.integers(1, 5), st.integers(1, 50))
def test_batches_keep_order_and_bounds(sizes: list[int], count: int, size_bytes: int) -> None:
    all_of_them = [listed(uid, size) for uid, size in enumerate(sizes, 1)]
    found = list(batches(all_of_them, messages=count, size_bytes=size_bytes, max_message_bytes=40))
    assert [one for batch in found for one in batch] == all_of_them
    for batch in found:
        read = [one.size_bytes for one in batch if one.size_bytes <= 40]
        assert 1 <= len(batch) <= count
        assert sum(read) <= size_bytes or len(read) == 1 or sum(1 for size in read if size) == 1


def test_only_a_message_id_that_names_one_of_each_is_a_match() -> None:
    rows = {name: uuid4() for name in "abcde"}
    known: list[tuple[UUID, str | None]] = [
        (rows["a"], "a"), (rows["b"], "double"), (rows["c"], "double"), (rows["d"], None), (rows["e"], "twice"),
    ]  # fmt: skip
    page = [listed(1, message_id="a"), listed(2, message_id="double"), listed(3), listed(4, message_id="twice")]
    page += [listed(5, message_id="twice"), listed(6, message_id="new")]
    assert matched(page, known) == {1: rows["a"]}


def test_uids_are_compressed() -> None:
    assert compressed([1, 2, 3, 5, 7, 8]) == "1:3,5,7:8"
    assert compressed([]) == ""


def test_answers_to_fetch_are_grouped_however_a_server_orders_them() -> None:
    data = [
        (b"1 (UID 5 BODY[] {3}", b"abc"), b")",
        (b"2 (BODY[] {3}", b"def"), b" UID 6)",
        b"3 (FLAGS (\\Seen))", None,
        (b"4 (UID 8 BODY[HEADER] {1}", b"x"), (b" BODY[TEXT] {1}", b"y"), b")",
    ]  # fmt: skip
    assert grouped(data) == [
        (b"1 (UID 5 BODY[] {3})", [b"abc"]),
        (b"2 (BODY[] {3} UID 6)", [b"def"]),
        (b"3 (FLAGS (\\Seen))", []),
        (b"4 (UID 8 BODY[HEADER] {1} BODY[TEXT] {1})", [b"x", b"y"]),
    ]


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("17-Jul-1996 02:44:25 -0700", datetime(1996, 7, 17, 9, 44, 25, tzinfo=UTC)),
        (" 1-Jan-2026 00:00:60 +0000", datetime(2026, 1, 1, 0, 0, 59, tzinfo=UTC)),
        ("01-Jan-2026 00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_internal_date_is_read(said: str, moment: datetime) -> None:
    assert moment_of(said) == moment


@pytest.mark.parametrize("said", ["", "32-Jan-2026 00:00:00 +0000", "01-Foo-2026 00:00:00 +0000", "x"])
def test_an_internal_date_that_is_none_is_now(said: str) -> None:
    assert abs(moment_of(said) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("trouble", list(Trouble))
def test_a_mailbox_that_fails_waits_longer_each_time_up_to_a_limit(trouble: Trouble) -> None:
    box = uuid4()
    waits = [(next_try(trouble, failures, box, NOW) - NOW).total_seconds() for failures in range(1, 60)]
    assert waits == sorted(waits)
    assert waits[1] == pytest.approx(2 * waits[0])
    assert waits[-1] <= 6 * 3600 * 1.2
    assert waits[0] >= (900 if trouble in (Trouble.LOGIN, Trouble.TOKEN) else 30)
