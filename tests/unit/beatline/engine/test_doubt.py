"""What is read off a message that may be in doubt, and what becomes of it by PostgreSQL's word."""

from __future__ import annotations

from typing import Any

import pytest

from beatline.engine.claim import RECORD_LIFE_S
from beatline.engine.doubt import DOUBTED_AGE_MS, Fate, Standing, fate_of, sent_ms, was_redelivered


@pytest.mark.parametrize(
    ("head", "redelivered", "sent"),
    [
        ({"bl_v": 1, "bl_published": 1_800_000_000.25}, False, 1_800_000_000_250),
        ({"bl_v": 1, "bl_published": 1_800_000_000}, True, 1_800_000_000_000),
        ({"bl_published": 7.0}, True, 7000),
        ({}, False, None),
        ({"task": "a"}, True, 0),
        ({"bl_v": 1}, False, 0),
        ({"bl_v": 1, "bl_published": "yesterday"}, False, 0),
        ({"bl_v": 1, "bl_published": None}, False, 0),
        ({"bl_v": 1, "bl_published": True}, False, 0),
        ({"bl_v": 1, "bl_published": float("nan")}, False, 0),
        ({"bl_v": 1, "bl_published": float("inf")}, False, 0),
        ({"bl_v": 1, "bl_published": -5.0}, False, 0),
        ({"bl_v": 1, "bl_published": 1e300}, False, 253_402_300_799_000),
        ({"bl_v": 1, "bl_published": 1e306}, False, 253_402_300_799_000),
        ({"bl_v": 1, "bl_published": 10**400}, False, 253_402_300_799_000),
    ],
)
def test_when_a_message_was_sent(head: dict[str, Any], redelivered: bool, sent: int | None) -> None:
    assert sent_ms(head, redelivered=redelivered) == sent


def test_redis_remembers_for_longer_than_it_is_trusted() -> None:
    assert DOUBTED_AGE_MS + 3600 * 1000 <= RECORD_LIFE_S * 1000


def test_kombu_marks_what_it_puts_back_in_two_places() -> None:
    assert was_redelivered({"redelivered": True}, {})
    assert was_redelivered({}, {"redelivered": True})
    assert not was_redelivered({}, {"routing_key": "default"})


@pytest.mark.parametrize(
    ("standing", "attempt", "fate"),
    [
        (None, 1, "claim"),
        (Standing("accepted", 1), 1, "claim"),
        (Standing("delayed", 1), 1, "claim"),
        (Standing("queued", 1), 1, "claim"),
        (Standing("queued", 1), 2, "claim"),
        (Standing("queued", 2), 1, "drop"),
        (Standing("running", 1), 1, "wait"),
        (Standing("running", 1), 2, "wait"),
        (Standing("running", 2), 1, "drop"),
        (Standing("retrying", 1), 1, "drop"),
        (Standing("retrying", 1), 2, "claim"),
        (Standing("lost", 3), 3, "drop"),
        (Standing("lost", 3), 4, "claim"),
        (Standing("succeeded", 1), 1, "drop"),
        (Standing("failed", 1), 1, "drop"),
        (Standing("cancelled", 2), 1, "drop"),
        (Standing("dead", 1), 2, "drop"),
    ],
)
def test_what_becomes_of_a_message(standing: Standing | None, attempt: int, fate: Fate) -> None:
    assert fate_of(standing, attempt) == fate
