"""What a gevent pool is given while all its slots are busy waits there, as on threads, and its consumer goes on.

Celery has the consumer itself wait for a slot. Until one is free it would carry out no order: a run that hangs could be
neither cancelled nor replaced, and what was reserved could not be given back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Waiting:
    """The runs that wait for a slot of one gevent pool. To the pool what its executor is to Celery's pool of threads."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._greenlets: set[Any] = set()

    def put(self, execute: Callable[..., object], *args: Any, **options: Any) -> Any:
        """A greenlet that executes it once a slot is free, unless it was cancelled by then."""
        greenlet = self._pool._pool.greenlet_class.spawn(self._when_free, execute, args, options)
        self._greenlets.add(greenlet)
        greenlet.f = _Place(self._greenlets, greenlet)
        return greenlet

    def shutdown(self, *, wait: bool = False, cancel_futures: bool = True) -> None:
        """What waits is not executed any more."""
        self._greenlets.clear()

    def _when_free(self, execute: Callable[..., object], args: Any, options: Any) -> None:
        greenlet = self._pool.getcurrent()
        self._pool._pool.add(greenlet)
        if greenlet in self._greenlets:
            self._greenlets.discard(greenlet)
            execute(*args, **options)


class _Place:
    """The place of one of them; where Celery's pool of threads has a future."""

    def __init__(self, greenlets: set[Any], greenlet: Any) -> None:
        self._greenlets, self._greenlet = greenlets, greenlet

    def cancel(self) -> bool:
        """Execute it not. False: it has begun."""
        if self._greenlet not in self._greenlets:
            return False
        self._greenlets.discard(self._greenlet)
        return True


def wait_in_pool(pool: Any) -> None:
    """Have a gevent pool keep what waits for a slot. Once per pool; any other does so by itself."""
    if "gevent" not in type(pool).__module__ or hasattr(pool, "executor"):
        return
    waiting, stop = Waiting(pool), pool.on_stop

    def on_stop() -> None:
        waiting.shutdown()
        stop()

    pool.executor, pool.on_stop, pool._quick_put = waiting, on_stop, waiting.put
