"""An attempt is cancelled by its fence, and no other attempt with it."""

from __future__ import annotations

from beatline.task import cancelling
from beatline.task.cancelling import is_cancelled, mark_cancelled

FENCE = 7 * 2**32 + 12


def test_only_the_fence_that_was_marked_is_cancelled() -> None:
    assert not is_cancelled(FENCE)
    mark_cancelled(FENCE)
    assert is_cancelled(FENCE)
    assert not any(is_cancelled(FENCE + other) for other in (-1, 1, 2**32))
    assert not is_cancelled(FENCE << 8 & (2**63 - 1))  # the same bytes, one place further
    assert not is_cancelled(0)  # of a task that is called without a worker; the memory is full of zeros


def test_the_last_thousand_are_kept() -> None:
    first = 900 * 2**32  # far from the other test's
    for number in range(1, cancelling.MOST + 2):
        mark_cancelled(first + number)
    assert not is_cancelled(first + 1)
    assert is_cancelled(first + cancelling.MOST + 1)
