"""What comes off the stream is valid and storable, or refused with a reason that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beatline.ledger.events import SHOWN_CHARS, Event
from beatline.ledger.intake import Entry, Known, Refused, read
from beatline.ledger.states import EventKind

_GOOD: dict[str, Any] = {
    "kind": "succeeded",
    "run_id": "4c8f",
    "attempt": 1,
    "day": "2026-11-22",
    "at": 1_763_800_000.25,
    "task": "collect.execute_task",
    "queue": "collect",
}


def _read(**changes: Any) -> Known | Refused:
    return read(Entry("1-0", json.dumps(_GOOD | changes)))


def test_an_event_is_read_back_as_it_was_written() -> None:
    said: dict[str, Any] = _GOOD | {"kind": EventKind.SUCCEEDED, "fence": 2**33, "result": "'ok'"}
    event = Event(**said)
    known = read(Entry("1-0", event.to_json()))
    assert isinstance(known, Known)
    assert known.event == event
    assert known.at == "2025-11-22T08:26:40.250000+00:00"


def test_a_field_of_a_newer_sender_is_ignored() -> None:
    assert isinstance(_read(invented_later=1), Known)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "exploded"}, "exploded"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": 7}, "run_id"),
        ({"run_id": "a\x00b"}, "NUL"),
        ({"task": "\ud800"}, "surrogate"),
        ({"queue": "q" * 600}, "600 characters"),
        ({"schedule": 3}, "schedule"),
        ({"attempt": 0}, "attempt"),
        ({"attempt": True}, "attempt"),
        ({"attempt": 2**40}, "attempt"),
        ({"attempt": "1"}, "attempt"),
        ({"fence": 2**63}, "fence"),
        ({"priority": 1.5}, "priority"),
        ({"runtime_s": float("inf")}, "runtime_s"),
        ({"runtime_s": "long"}, "runtime_s"),
        ({"queued": 1}, "queued"),
        ({"message": {}}, "message"),
        ({"message": "\udfff"}, "surrogates"),
        ({"day": "2026-02-30"}, "day"),
        ({"day": "today"}, "today"),
        ({"day": "2026-W01-1"}, "day is no date"),
        ({"at": 1e300}, "out of range"),
        ({"at": None}, "at is no time"),
        ({"eta": "soon"}, "soon"),
        ({"expires": "0001-01-01T00:00:00+14:00"}, "out of range"),
        ({"error": ["x"]}, "error"),
    ],
)
def test_what_is_no_event_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    refused = _read(**changes)
    assert isinstance(refused, Refused)
    assert reason in refused.reason


@pytest.mark.parametrize("payload", ["", "nonsense", "[]", "null", "{}", '{"kind": "started"}', "[" * 100_000])
def test_what_is_not_even_an_object_is_refused(payload: str) -> None:
    assert isinstance(read(Entry("1-0", payload)), Refused)


def test_texts_for_people_are_made_storable_instead() -> None:
    known = _read(error="a\x00b\ud800", result="x" * 5000, worker="w\x00")
    assert isinstance(known, Known)
    assert known.event.error == "a\\0b\\ud800"
    assert known.event.worker == "w\\0"
    assert known.event.result is not None
    assert len(known.event.result) == SHOWN_CHARS


def test_times_are_brought_to_utc() -> None:
    known = _read(eta="2026-11-22T08:00:00+08:00", slot="2026-11-22T00:00:00")
    assert isinstance(known, Known)
    assert known.eta == known.slot == "2026-11-22T00:00:00.000000+00:00"
