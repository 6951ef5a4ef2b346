"""Connections to Redis that a test leaves open are closed after it.

redis-py and Celery leave that to the garbage collector, which may warn of an open socket in the middle of any later
test, where warnings are errors.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakSet

import pytest
import redis

_pools: WeakSet[redis.ConnectionPool] = WeakSet()


def track(patch: pytest.MonkeyPatch) -> None:
    """Remember every pool of connections that is made from now on."""
    pool_class: Any = redis.ConnectionPool  # redis-py leaves some of its arguments untyped
    make = pool_class.__init__

    def remember(self: redis.ConnectionPool, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _pools.add(self)

    patch.setattr(pool_class, "__init__", remember)


def close_all() -> None:
    """Close what is open. A pool that is used again connects again."""
    for pool in tuple(_pools):
        with suppress(redis.RedisError):
            pool.disconnect()
