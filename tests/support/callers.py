"""Callers who send at once, more of them than there are connections, to a Redis that is frozen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import pytest

from beatline.clock import monotonic_s
from beatline.engine.sending import NotSentError
from support.servers import frozen

CALLERS: Final = 6
CONNECTIONS: Final = 2


def longest_held_s(app: Any, url: str, send: Callable[[], object]) -> float:
    """How long the last of them was held, once each was told that nothing was sent."""
    held: list[float] = []

    def call() -> None:
        began = monotonic_s()
        with pytest.raises(NotSentError):
            send()
        held.append(monotonic_s() - began)

    app.conf.broker_pool_limit = CONNECTIONS
    app.amqp.producer_pool.force_close_all(close_pool=False)
    app.amqp.producer_pool.limit = CONNECTIONS
    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    with frozen(url):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(held) == CALLERS
    return max(held)
