"""Events are small, whatever a task prints; only an accepted one carries its message."""

from __future__ import annotations

import json

import pytest

from beatline.ledger.events import EVENT_LIMIT_BYTES, Event, storable
from beatline.ledger.states import EventKind


def event(**facts: str) -> Event:
    return Event(
        kind=EventKind.FAILED, run_id="r1", attempt=1, day="2026-11-22", at=1.0, task="t", queue="default",
        traceback=facts.get("traceback"), error=facts.get("error"), message=facts.get("message"),
    )  # fmt: skip


@pytest.mark.parametrize("letter", ["x", "ü", "漢", "😀", '"', "\\", "\n"])
def test_an_event_is_small_whatever_its_texts_are_made_of(letter: str) -> None:
    said = event(traceback=letter * 2000, error=letter * 600).to_json()
    assert len(said.encode()) <= EVENT_LIMIT_BYTES
    back = Event.from_json(said)
    assert back.error is not None
    assert back.traceback is not None
    assert back.traceback.startswith(letter * 50)


def test_a_message_travels_whole_beside_the_limit() -> None:
    message = json.dumps({"body": "é" * 10_000})
    assert Event.from_json(event(message=message).to_json()).message == message


def test_what_a_newer_sender_adds_is_ignored_and_what_is_no_event_is_refused() -> None:
    newer = json.loads(event().to_json()) | {"colour": "blue"}
    assert Event.from_json(json.dumps(newer)) == event()
    for text in ("[]", "{}", '{"kind": "exploded"}', "not json", '{"kind": "failed", "run_id": "r"}'):
        with pytest.raises(ValueError):  # noqa: PT011  # ValueError is the contract, whatever its text
            Event.from_json(text)


def test_stored_texts_hold_nothing_that_postgresql_refuses() -> None:
    text = storable("a\x00b\ud800c" + "x" * 50, 20)
    assert "\x00" not in text
    text.encode("utf-8")
    assert len(text) == 20
