"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, *, every_s: float = 0.02, what: str = "") -> T:
    """What `condition` returned when it first was true. Fails with its last answer after `timeout_s`.

    An AssertionError inside the condition counts as *not yet*, so that a condition may be a row of asserts that ends in
    `return True`; any other exception is a failure at once.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        seen: object
        try:
            answer = condition()
            if answer:
                return answer
            seen = answer
        except AssertionError as exc:
            seen = exc
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"Still not true after {timeout_s:g} s: {what or repr(condition)}; last seen: {seen!r}"
            )
        time.sleep(every_s)
