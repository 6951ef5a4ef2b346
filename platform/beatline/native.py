"""Native threads, also where gevent has made green ones of Python's: no run that blocks in C holds them up, nor they it.

libpq is such code: a green thread that waits for PostgreSQL has all others wait. What gevent has patched belongs to one
thread: who works in a native one opens connections of its own, and shares with green ones nothing but what is native too,
like the lock from here and _queue.SimpleQueue (that of the queue module wakes no native thread).
"""

from __future__ import annotations

import logging
import sys
import threading
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final, TypeVar

MOST: Final = 4
"""Calls at once; the others wait, which holds up nobody."""

_T = TypeVar("_T")


def start_native(target: Callable[[], None], name: str) -> None:
    """Run it in a native thread that nobody waits for."""
    if _is_green():
        monkey: Any = sys.modules["gevent.monkey"]
        monkey.get_original("_thread", "start_new_thread")(target, ())
        return
    threading.Thread(target=target, name=name, daemon=True).start()


class Bell:
    """Wakes the one thread that waits for it, whichever thread or signal handler rings it; at once, if it was rung before."""

    def __init__(self) -> None:
        self._rung: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Wake who waits, or who will."""
        self._rung.put(None)

    def wait(self, timeout_s: float) -> None:
        """Until it is rung, or for so long. Blocks the whole native thread."""
        with suppress(Empty):
            self._rung.get(timeout=timeout_s)
            while True:
                self._rung.get_nowait()


def native_lock() -> threading.RLock:
    """A reentrant lock between native threads. To green ones it is no lock: let none of them wait while it has it."""
    if _is_green():
        monkey: Any = sys.modules["gevent.monkey"]
        lock: threading.RLock = monkey.get_original("_thread", "RLock")()
        return lock
    return threading.RLock()


def log_from_native_threads() -> None:
    """Let native threads log beside green ones: who waited for another thread at a green lock might wait for ever. For the
    lock of the logging module itself; a handler has its own."""
    if _is_green():
        logging._lock = native_lock()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def call_native(call: Callable[[], _T]) -> _T:
    """What the call returns or raises. On gevent it is made in a native thread, while green ones go on; else right here."""
    return _call_in_pool(call) if _is_green() else call()


def _is_green() -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _call_in_pool(call: Callable[[], _T]) -> _T:
    returned: list[_T] = []

    def caught() -> BaseException | None:
        try:
            returned.append(call())
        except BaseException as exc:  # noqa: BLE001  # raised where it is waited for; gevent would print it as well
            return exc
        return None

    raised: BaseException | None = _pool().apply(caught)
    if raised is not None:
        raise raised
    return returned[0]


@cache
def _pool() -> Any:
    """Not that of gevent's hub: names are looked up there, which must not wait for PostgreSQL."""
    threadpool: Any = import_module("gevent.threadpool")
    return threadpool.ThreadPool(MOST)
