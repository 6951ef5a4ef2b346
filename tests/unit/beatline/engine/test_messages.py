"""Messages: priorities meet their lists in one place, and another attempt is the same message with another number."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from beatline.engine import headers as h
from beatline.engine.messages import (
    StoredMessage,
    accepted_event,
    attempt_of,
    epoch_of,
    list_key,
    list_names,
    new_message,
    next_attempt,
    step_of,
)
from beatline.errors import MessageTooLargeError
from beatline.ledger.events import MESSAGE_LIMIT_BYTES
from beatline.ledger.states import EventKind
from beatline.names import Keys


def message(args: str = "[]", **headers: Any) -> StoredMessage:
    head = {h.RUN_ID: "r1", h.TASK: "test.add", h.ATTEMPT: 1, h.DAY: "2026-11-22", **headers}
    return new_message(head, ("application/json", "utf-8", f"[{args}, {{}}, {{}}]"), {"priority": 4}, "collect")


@pytest.mark.parametrize(
    ("priority", "step"), [(9, 0), (8, 0), (7, 0), (6, 3), (4, 3), (3, 6), (1, 6), (0, 9), (-5, 9), (99, 0)]
)
def test_nine_goes_first(priority: int, step: int) -> None:
    assert step_of(priority) == step


def test_a_project_may_keep_its_own_sense_of_priority() -> None:
    assert [step_of(n, low_first=True) for n in (0, 3, 9)] == [0, 3, 9]


def test_the_list_of_a_priority_is_one_of_the_queue_s_lists() -> None:
    keys = Keys("{p}:")
    assert {list_key(keys, "email", n) for n in range(10)} == {keys.queue(name) for name in list_names("email")}
    assert list_key(keys, "email", 9) == "{p}:email"


def test_another_attempt_changes_nothing_but_its_own_headers() -> None:
    first = message("[1, 2]")
    second = next_attempt(first.payload, 3, epoch=7)

    assert (second.run_id, second.attempt, second.queue, second.priority) == ("r1", 3, "collect", 4)
    before, after = json.loads(first.payload), json.loads(second.payload)
    assert after["body"] == before["body"]
    assert base64.b64decode(after["body"]) == b"[[1, 2], {}, {}]"
    assert after["headers"][h.EPOCH] == 7
    assert after["headers"][h.STORED] == 1
    assert after["properties"].pop("delivery_tag") != before["properties"].pop("delivery_tag")
    assert after["properties"] == before["properties"]


def test_what_the_ledger_hears_of_a_queued_message_names_its_attempt() -> None:
    event = next_attempt(message().payload, 2).queued_event()
    assert (event.kind, event.run_id, event.attempt, event.queue) == (EventKind.QUEUED, "r1", 2, "collect")
    assert event.message is None


def test_a_message_over_the_limit_is_refused_with_its_size_and_what_to_do() -> None:
    with pytest.raises(MessageTooLargeError, match=r"'test\.add'.*262,144 are accepted.*pass its id"):
        message(json.dumps(["x" * MESSAGE_LIMIT_BYTES]))


@pytest.mark.parametrize("payload", ["[]", "{}", '{"headers": {}}', '{"headers": {"id": "r"}, "properties": {}}'])
def test_what_is_no_message_is_a_value_error(payload: str) -> None:
    with pytest.raises(ValueError, match="not a message"):
        next_attempt(payload, 2)


def test_a_stock_producer_s_attempt_is_told_by_its_retries() -> None:
    assert attempt_of({"retries": 2}) == 3
    assert attempt_of({"retries": 2, h.ATTEMPT: 7}) == 7
    assert attempt_of({}) == 1
    assert attempt_of({"retries": 2**31 - 2}) == 2**31 - 1


@pytest.mark.parametrize(
    ("given", "priority"),
    [(5, 5), ("5", 5), (5.0, 5), (True, 1), (100_000, 9), (-3, 0), (None, None), ("high", None), (float("inf"), None)],
)
def test_a_stock_producer_s_priority_costs_the_ledger_no_event(given: object, priority: int | None) -> None:
    read = json.loads(message().payload)
    read["properties"]["priority"] = given
    assert accepted_event(read, "default", json.dumps(read)).priority == priority


@pytest.mark.parametrize("said", [float("inf"), float("nan"), 1e30, 10**400, -1, 2**31, "x"])
def test_a_number_that_nobody_can_keep_is_refused(said: object) -> None:
    head = {h.RUN_ID: "r1", h.TASK: "test.add", h.DAY: "2026-11-22"}
    for name, read in ((h.ATTEMPT, attempt_of), ("retries", attempt_of), (h.EPOCH, epoch_of)):
        with pytest.raises(ValueError, match=r"number|int|integer"):
            read({**head, name: said})


def test_a_message_with_an_infinite_number_is_none_of_beatline_s() -> None:
    payload = json.loads(message().payload)
    payload["headers"][h.ATTEMPT] = float("inf")
    with pytest.raises(ValueError, match="not a message"):
        StoredMessage.parse(json.dumps(payload))
