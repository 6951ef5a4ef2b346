"""How long a run that is executed waits for Redis when it has something to publish: a retry, a link, a step of a chain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.logs import get_logger

PATIENCE_S: Final = 60.0
"""Longer than Redis takes to start again or to fail over."""
RETRY_S: Final = 0.5
NOT_TAKEN: Final = (OperationalError, RedisError)
"""Redis does not answer, or has no room: another time it may."""

Answer = TypeVar("Answer")

log = get_logger(__name__)


def patiently(ask: Callable[[], Answer], waits: str, **about: Any) -> Answer:
    """What `ask` returns, asked again for PATIENCE_S while Redis does not take it; then raises what it raised last.

    `waits` names the event that is logged, once, when it does not come at the first try.
    """
    give_up, told = monotonic_s() + PATIENCE_S, False
    while True:
        try:
            return ask()
        except NOT_TAKEN as exc:
            if monotonic_s() > give_up:
                raise
            if not told:
                log.warning(waits, error=str(exc), **about)
                told = True
        threading.Event().wait(RETRY_S)
