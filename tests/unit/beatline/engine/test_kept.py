"""Which ends are kept, and which are sent again: pure, by what renewals have seen of Redis."""

from __future__ import annotations

from dataclasses import replace

import pytest

from beatline.engine.claim import Lease
from beatline.engine.kept import END_BYTES, KeptEnd, KeptEnds, Seen, parse_id

EMPTY = Seen(epoch=1, began="1 1000 0 run", server="run repl", first=None, last=(0, 0))


def end(number: int, said: str = "{}") -> KeptEnd:
    """An end whose event has the id NUMBER-0."""
    return KeptEnd(Lease(f"r{number}", 1, number, "w", "2026-11-22"), "ended", said, (number, 0))


def drained(before: int, last: int = 100) -> Seen:
    """A stream whose first entry is BEFORE-0."""
    return replace(EMPTY, first=(before, 0), last=(last, 0))


def numbers(ends: list[KeptEnd]) -> list[int]:
    return [one.lease.fence for one in ends]


@pytest.fixture
def kept() -> KeptEnds:
    """The ends 1, 2 and 3, sent when it was known which Redis this is."""
    kept = KeptEnds()
    assert kept.see(EMPTY)
    for number in (1, 2, 3):
        kept.keep(end(number), kept.generation)
    return kept


def left(kept: KeptEnds) -> list[int]:
    """Which are kept: those that another Redis would be sent."""
    kept.see(replace(EMPTY, server="another repl"))
    return numbers(kept.take(100))


def test_ids_sort_as_numbers() -> None:
    assert parse_id("99-10") > parse_id("99-9") > parse_id("9-100")


def test_what_was_drained_is_let_go(kept: KeptEnds) -> None:
    assert not kept.see(drained(3))
    assert left(kept) == [3]


def test_an_empty_stream_has_drained_all_it_ever_held(kept: KeptEnds) -> None:
    assert not kept.see(replace(EMPTY, last=(3, 0)))
    assert len(kept) == 0


def test_a_pending_entry_holds_what_came_after_it(kept: KeptEnds) -> None:
    """A recorder that froze has entry 1 in hand, while others drain: its entry is still the stream's first."""
    assert not kept.see(drained(1))
    assert left(kept) == [1, 2, 3]


@pytest.mark.parametrize(
    "lost",
    [
        replace(drained(50), epoch=2),
        replace(drained(50), began="1 2000 0 run"),  # emptied, and a claim has begun the same epoch anew
        replace(drained(50), began=""),
        replace(drained(50), server="other repl"),  # restarted
        replace(drained(50), server="run other"),  # was another's replica meanwhile
        replace(EMPTY, last=(2, 0)),  # the stream went back behind what it gave us
    ],
)
def test_another_data_set_is_sent_all_of_them_in_order(kept: KeptEnds, lost: Seen) -> None:
    assert kept.see(lost)
    assert kept.to_send == 3
    assert numbers(kept.take(2)) == [1, 2]
    assert numbers(kept.take(2)) == [3]


def test_an_end_that_came_while_redis_was_asked_is_not_missing_in_its_answer(kept: KeptEnds) -> None:
    newest = kept.newest
    kept.keep(end(4), kept.generation)
    assert not kept.see(replace(EMPTY, first=(1, 0), last=(3, 0)), newest)
    assert kept.to_send == 0
    assert left(kept) == [1, 2, 3, 4]


def test_none_is_let_go_before_it_was_sent_again(kept: KeptEnds) -> None:
    other = replace(drained(50), server="other repl")
    assert kept.see(other)
    assert not kept.see(other)
    [first, *rest] = kept.take(3)
    kept.keep(replace(first, stream_id=(60, 0)), kept.generation)
    kept.put_back(rest)
    assert not kept.see(replace(other, first=(70, 0)))
    assert (len(kept), kept.to_send) == (2, 2)
    assert numbers(kept.take(3)) == [2, 3]


def test_an_end_that_was_on_its_way_when_redis_changed_is_sent_again(kept: KeptEnds) -> None:
    known = kept.generation
    kept.see(replace(EMPTY, epoch=2))
    kept.take(3)
    kept.keep(end(4), known)  # its answer came late: perhaps from the Redis that was emptied
    assert numbers(kept.take(3)) == [4]


def test_before_the_first_look_nothing_is_sure() -> None:
    kept = KeptEnds()
    kept.keep(end(1), kept.generation)
    assert kept.see(drained(50))
    assert numbers(kept.take(1)) == [1]


def test_a_server_that_does_not_say_who_it_is_is_not_trusted() -> None:
    kept = KeptEnds()
    silent = replace(EMPTY, server="")
    kept.see(silent)
    kept.keep(end(1), kept.generation)
    assert not kept.see(replace(silent, last=(50, 0)))
    assert len(kept) == 1


def test_the_oldest_go_where_they_are_too_many(caplog: pytest.LogCaptureFixture) -> None:
    kept = KeptEnds(most=3)
    kept.see(EMPTY)
    for number in range(1, 8):
        kept.keep(end(number), kept.generation)
    assert left(kept) == [5, 6, 7]
    assert caplog.text.count("kept_ends_overflow") == 1


def test_the_oldest_go_where_they_are_too_large() -> None:
    kept = KeptEnds(most_bytes=3 * (END_BYTES + 1000))
    kept.see(EMPTY)
    for number in range(1, 8):
        kept.keep(end(number, "x" * 1000), kept.generation)
    assert left(kept) == [5, 6, 7]


def test_what_waits_to_be_sent_again_is_older_than_what_came_since() -> None:
    small = KeptEnds(most=2)
    small.see(EMPTY)
    small.keep(end(1), small.generation)
    small.see(replace(EMPTY, epoch=2))
    small.keep(end(2), small.generation)
    small.keep(end(3), small.generation)
    assert small.to_send == 0
    assert left(small) == [2, 3]


def test_room_is_given_back() -> None:
    """What was let go, or taken and kept anew, counts once: the bound is met by what is there."""
    small = KeptEnds(most_bytes=2 * (END_BYTES + 2))
    small.see(EMPTY)
    for number in range(1, 50):
        small.keep(end(number), small.generation)
        small.see(replace(EMPTY, last=(number, 0)) if number % 2 else replace(EMPTY, epoch=number, last=(number, 0)))
        for one in small.take(10):
            small.keep(one, small.generation)
        small.see(replace(small.seen or EMPTY, last=(number, 0)))
    small.keep(end(50), small.generation)
    small.keep(end(51), small.generation)
    assert left(small) == [50, 51]
