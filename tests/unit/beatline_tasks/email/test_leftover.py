"""What history says of a message's runs, and what end it has by that."""

from __future__ import annotations

import pytest

from beatline.ledger.states import ENDED, RunState
from beatline_tasks.email.dispatch import PROCESS
from beatline_tasks.email.leftover import Fate, end_of

OPEN = Fate("crm.read", RunState.RETRYING, None)
GOOD = Fate(PROCESS, RunState.SUCCEEDED, None)
DEAD = Fate(PROCESS, RunState.DEAD, "its worker was lost\x00 three times")


@pytest.mark.parametrize("own", [Fate(PROCESS, state, None) for state in set(RunState) - ENDED])
def test_what_may_still_go_on_is_left_alone(own: Fate) -> None:
    assert end_of("new", own, None) is None
    assert end_of("processing", own, None) is None
    assert end_of("processing", GOOD, OPEN) is None
    assert end_of("new", GOOD, None) is None  # it has moved on since it was read


def test_what_is_over_has_the_end_of_its_run() -> None:
    assert end_of("new", DEAD, None) == (
        "failed",
        "email.process_message ended as dead: its worker was lost three times",
    )
    assert end_of("processing", GOOD, Fate("crm.read", RunState.CANCELLED, None)) == (
        "failed",
        "crm.read ended as cancelled",
    )
    assert end_of("processing", DEAD, Fate("crm.read", RunState.SUCCEEDED, None)) == ("processed", None)


def test_what_nobody_knows_any_more_has_failed() -> None:
    assert end_of("new", None, None) == ("failed", "email.process_message is unknown to history")
    for own in (None, GOOD, DEAD):
        assert end_of("processing", own, None) == ("failed", "the run it was handed to is unknown to history")
