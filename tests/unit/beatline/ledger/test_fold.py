"""Folding is a function of the set of events; the examples say which one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beatline.ledger.events import Event
from beatline.ledger.fold import Batch, fold
from beatline.ledger.intake import Entry, Known, read
from beatline.ledger.states import EventKind
from support.histories import histories


def _known(kind: EventKind, at: float, attempt: int = 1, **facts: Any) -> Known:
    event = Event(kind=kind, run_id="r", attempt=attempt, day="2026-11-22", at=at, task="t", queue="q", **facts)
    known = read(Entry("1-0", event.to_json()))
    assert isinstance(known, Known)
    return known


def _run(*events: Known) -> dict[str, Any]:
    return fold(events).runs["r"]


@given(histories(), st.randoms(use_true_random=False))
def test_order_and_repetition_make_no_difference(history: list[Known], chance: Any) -> None:
    again = history + chance.choices(history, k=len(history))
    chance.shuffle(again)
    assert _plain(fold(again)) == _plain(fold(history))


def _plain(batch: Batch) -> tuple[object, ...]:
    return batch.days, batch.runs, batch.attempts


def test_a_state_never_goes_back() -> None:
    row = _run(
        _known(EventKind.SUCCEEDED, 3.0, worker="w"), _known(EventKind.STARTED, 2.0), _known(EventKind.QUEUED, 1.0)
    )
    assert (row["state"], row["progress"], row["worker"]) == ("succeeded", 19, "w")
    assert row["ended_at"] == "1970-01-01T00:00:03.000000+00:00"


def test_the_next_attempt_beats_the_end_of_this_one() -> None:
    row = _run(_known(EventKind.LOST, 5.0), _known(EventKind.QUEUED, 4.0, attempt=2))
    assert (row["state"], row["attempt"], row["ended_at"]) == ("queued", 2, None)


def test_of_two_ends_the_first_stays() -> None:
    ends = (_known(EventKind.FAILED, 9.0, error="late"), _known(EventKind.DEAD, 8.0, reason="first"))
    batch = fold(ends)
    assert (batch.runs["r"]["state"], batch.runs["r"]["reason"], batch.runs["r"]["error"]) == ("dead", "first", None)
    assert batch.attempts["r", 1]["outcome"] == "dead"


def test_an_end_beats_a_loss_of_the_same_attempt() -> None:
    batch = fold([_known(EventKind.LOST, 5.0), _known(EventKind.SUCCEEDED, 6.0)])
    assert batch.runs["r"]["state"] == "succeeded"
    assert batch.attempts["r", 1]["outcome"] == "succeeded"


def test_an_accepted_and_queued_run_is_queued() -> None:
    row = _run(_known(EventKind.ACCEPTED, 1.0, queued=True, message="m", args_shown="()"))
    assert (row["state"], row["message"], row["message_attempt"], row["args_shown"]) == ("queued", "m", 1, "()")
    assert row["accepted_at"] == row["queued_at"]


def test_the_newest_message_is_kept() -> None:
    row = _run(
        _known(EventKind.ACCEPTED, 3.0, attempt=2, queued=True, message="second", root_id="x"),
        _known(EventKind.ACCEPTED, 1.0, queued=True, message="first", schedule="nightly"),
    )
    assert (row["message"], row["message_attempt"], row["schedule"], row["root_id"]) == ("second", 2, None, "x")
    assert row["accepted_at"] == "1970-01-01T00:00:01.000000+00:00"
    assert row["queued_at"] == "1970-01-01T00:00:03.000000+00:00"


def test_a_refused_end_changes_no_state_and_is_counted_by_fence() -> None:
    refused = _known(EventKind.REFUSED, 9.0, fence=7)
    batch = fold([refused, refused, _known(EventKind.REFUSED, 9.5, fence=8)])
    assert batch.runs == {}
    assert batch.attempts["r", 1]["refused_fences"] == [7, 8]
    assert "outcome" not in batch.attempts["r", 1]


def test_an_attempt_belongs_to_the_greatest_fence() -> None:
    batch = fold(
        [_known(EventKind.STARTED, 2.0, worker="new", fence=9), _known(EventKind.STARTED, 1.0, worker="old", fence=4)]
    )
    row = batch.attempts["r", 1]
    assert (row["worker"], row["fence"], row["started_at"]) == ("new", 9, "1970-01-01T00:00:01.000000+00:00")


def test_waiting_in_a_queue_is_no_attempt() -> None:
    assert fold([_known(EventKind.ACCEPTED, 1.0), _known(EventKind.QUEUED, 2.0)]).attempts == {}
