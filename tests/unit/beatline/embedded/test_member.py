"""When a member that failed is started again."""

from __future__ import annotations

from beatline.embedded.member import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause_s


def test_pauses_grow_up_to_a_limit() -> None:
    pauses = [pause_s(failures) for failures in range(40)]

    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[1] == 2 * pauses[0]
    assert pauses[-1] == LONGEST_PAUSE_S
