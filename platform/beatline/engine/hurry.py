"""Calls to Redis that must end soon, because somebody waits who sends a task: a server that is frozen must not hold them.

A worker is patient: it has nothing better to do than to wait for its broker. Inside `hurried(seconds)` the same
connections give up at that deadline, whatever time-outs they were made with, and raise what neither redis-py nor kombu
tries again on. The deadline is that of the thread, or the coroutine, that asked for it.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from beatline.clock import monotonic_s

if TYPE_CHECKING:

    class RedisConnection:
        """redis.connection.AbstractConnection"""

        _sock: Any

        def connect_check_health(self, *args: Any, **options: Any) -> Any: ...
        def send_packed_command(self, *args: Any, **options: Any) -> Any: ...
        def read_response(self, *args: Any, **options: Any) -> Any: ...
        def disconnect(self, *args: Any, **options: Any) -> None: ...

else:
    from redis.connection import AbstractConnection as RedisConnection

ABSENT_S: Final = 1.0
"""Nobody listens: a Redis that is being restarted is waited for so long."""
_LOOK_S: Final = 0.2

_AGAIN_AT_ONCE: Final = Retry(NoBackoff(), 1)
"""For a connection of the pool that a restarted server has closed."""
_NOT_AGAIN: Final = Retry(NoBackoff(), 0)

_deadline: ContextVar[float | None] = ContextVar("beatline_deadline", default=None)
_sent_once: ContextVar[bool] = ContextVar("beatline_sent_once", default=False)


class NoAnswerError(RedisError):
    """Redis did not answer in time. What was sent before may have been taken all the same."""


@contextmanager
def hurried(seconds: float) -> Generator[None]:
    """Calls to Redis in here end within so many seconds, all of them together; an outer deadline that is nearer holds."""
    outer, own = _deadline.get(), monotonic_s() + seconds
    token = _deadline.set(own if outer is None else min(own, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def sent_once() -> Generator[None]:
    """A command in here is not sent a second time when its connection breaks, because it would meet itself."""
    token = _sent_once.set(True)
    try:
        yield
    finally:
        _sent_once.reset(token)


def left_s() -> float | None:
    """Seconds left, 0 if they are over; None: nobody is in a hurry."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - monotonic_s())


@lru_cache(maxsize=16)
def hurrying(connection_class: type[Any]) -> type[Any]:
    """The class of connections with deadlines; `connection_class` itself if it has them already."""
    if issubclass(connection_class, _Hurrying):
        return connection_class
    return type(connection_class.__name__, (_Hurrying, connection_class), {})


class _Hurrying(RedisConnection):
    """A connection of redis-py's that keeps to the deadline of who uses it."""

    _hastened = False
    _socket_timeout: float | None  # redis-py 8 sets these two itself
    _socket_connect_timeout: float | None

    def __init__(self, *args: Any, **options: Any) -> None:
        token = _deadline.set(None)  # its time-outs are those it was made with, whoever made it
        try:
            super().__init__(*args, **options)
        finally:
            _deadline.reset(token)

    @property
    def retry(self) -> Any:
        if _sent_once.get():
            return _NOT_AGAIN
        return self._retry if left_s() is None else _AGAIN_AT_ONCE

    @retry.setter
    def retry(self, retry: Any) -> None:
        self._retry = retry

    @property
    def socket_timeout(self) -> float | None:
        return _soonest(self._socket_timeout)

    @socket_timeout.setter
    def socket_timeout(self, seconds: float | None) -> None:
        self._socket_timeout = seconds

    @property
    def socket_connect_timeout(self) -> float | None:
        return _soonest(self._socket_connect_timeout)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float | None) -> None:
        self._socket_connect_timeout = seconds

    def connect_check_health(self, *args: Any, **options: Any) -> Any:
        """Connect; in a hurry, to a server that is not there, for ABSENT_S at the longest."""
        if left_s() is None or self._sock:
            return super().connect_check_health(*args, **options)
        give_up = monotonic_s() + ABSENT_S
        while True:
            self._hastened = True
            try:
                return super().connect_check_health(*args, **options)
            except AuthenticationError:
                raise
            except RedisTimeoutError as exc:
                raise NoAnswerError(str(exc)) from exc
            except RedisConnectionError as exc:
                if monotonic_s() + _LOOK_S > give_up or not left_s():
                    raise NoAnswerError(str(exc)) from exc
            threading.Event().wait(_LOOK_S)

    def send_packed_command(self, *args: Any, **options: Any) -> Any:
        """Send, within the deadline."""
        self._keep_time()
        try:
            return super().send_packed_command(*args, **options)
        except RedisTimeoutError as exc:
            raise _told(exc) from exc

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read, within the deadline."""
        self._keep_time()
        try:
            return super().read_response(*args, **options)
        except RedisTimeoutError as exc:
            raise _told(exc) from exc

    def _keep_time(self) -> None:
        """Give the open socket the time there is, and its own again once nobody is in a hurry."""
        left = left_s()
        if left is None and not self._hastened:
            return
        if left == 0:
            self.disconnect()  # a reply may be on its way that nobody will read
            raise NoAnswerError("the time is over")
        self._hastened = left is not None
        if self._sock:
            self._sock.settimeout(self.socket_timeout)


def _soonest(seconds: float | None) -> float | None:
    left = left_s()
    if left is None:
        return seconds
    left = max(left, 0.001)  # 0 would make the socket non-blocking
    return left if seconds is None else min(left, seconds)


def _told(exc: RedisTimeoutError) -> RedisError:
    return exc if left_s() is None else NoAnswerError(str(exc))
