"""A run whose lease expired is repeated, until it has cost three workers or never got to begin in ten."""

from __future__ import annotations

from beatline.ledger.lost import LOST_LIMIT, RETURNED_LIMIT, Dead, LostAttempt, Republish, decide_lost


def _lost(number: int, worker: str | None = "w") -> LostAttempt:
    return LostAttempt(number, True, worker)


def _returned(number: int) -> LostAttempt:
    return LostAttempt(number, False, "w")


def test_the_first_losses_are_repeated() -> None:
    assert decide_lost([], _lost(1)) == Republish(2)
    assert decide_lost([_lost(1)], _lost(2)) == Republish(3)


def test_the_third_begun_attempt_is_the_last_and_names_the_workers() -> None:
    fate = decide_lost([_lost(1, "a@x"), _lost(4, None)], LostAttempt(5, True, "c@z", "its pool process died: SIGKILL"))
    assert isinstance(fate, Dead)
    assert fate.reason == (
        "its worker died three times (a@x, unknown, c@z); the last time: its pool process died: SIGKILL"
    )


def test_reserved_attempts_do_not_count_as_begun_ones() -> None:
    past = [_returned(n) for n in range(1, 9)]
    assert decide_lost([*past, _lost(9), _lost(10)], _returned(11)) == Republish(12)
    assert decide_lost(past, _lost(9)) == Republish(10)


def test_ten_returns_are_too_many() -> None:
    past = [_returned(n) for n in range(1, RETURNED_LIMIT)]
    fate = decide_lost(past, _returned(RETURNED_LIMIT))
    assert isinstance(fate, Dead)
    assert "10 times before it began" in fate.reason
    assert decide_lost(past[1:], _returned(RETURNED_LIMIT)) == Republish(RETURNED_LIMIT + 1)


def test_begun_attempts_after_many_returns_still_have_their_three() -> None:
    past = [*(_returned(n) for n in range(1, 20)), _lost(20)]
    assert decide_lost(past, _lost(21)) == Republish(22)
    assert LOST_LIMIT == 3


def test_what_a_stopping_worker_gives_up_never_counts() -> None:
    past = [_returned(n) for n in range(1, RETURNED_LIMIT)]
    given_up = LostAttempt(RETURNED_LIMIT, False, "w", why="")
    assert decide_lost(past, given_up) == Republish(RETURNED_LIMIT + 1)
    assert decide_lost([_lost(1), _lost(2)], LostAttempt(3, True, "w", why="")) == Republish(4)


def test_a_parked_task_is_dead_at_its_first_loss_and_says_why() -> None:
    fate = decide_lost([], LostAttempt(1, True, "a@x", "its pool process died: SIGKILL"), parks=True)
    assert fate == Dead('its worker was lost (a@x: its pool process died: SIGKILL), and its task says on_lost="dead"')
    stopped = decide_lost([], LostAttempt(1, True, "a@x", ""), parks=True)
    assert isinstance(stopped, Dead)
    assert "was stopped while it ran" in stopped.reason


def test_a_parked_task_that_never_began_goes_back() -> None:
    assert decide_lost([], _returned(1), parks=True) == Republish(2)
    assert decide_lost([], LostAttempt(1, False, "w", ""), parks=True) == Republish(2)
