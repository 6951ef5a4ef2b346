"""Celery's results in Redis, for callers whom a Redis of results that is frozen must not hold.

Who only sends subscribes to nothing (see `late`). What a chord counts its parts with is written before the first of them
is sent: if it cannot be, nothing was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import redis
from kombu.exceptions import OperationalError
from kombu.utils.functional import LRUCache
from redis.exceptions import RedisError

from beatline.engine.accept_first import rows_first
from beatline.engine.hurry import hurried, hurrying, left_s
from beatline.engine.late import LateConsumer
from beatline.engine.seams import GroupResult, RedisBackend
from beatline.engine.sending import CALLER_S, in_words

ACCEPTED_S: Final = 1.0
"""So long the bookkeeping is waited for where runs are accepted by rows: one before it was waited for as long already."""
_REMEMBERED: Final = 1000
_TO_DO: Final = "Start the Redis of results or correct BEATLINE_RESULT_URL: a chord counts its parts there."


class ResultBackend(RedisBackend):
    """What `redis://` and `rediss://` mean for results of a Beatline app."""

    ResultConsumer = LateConsumer

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Celery says the size once more before the last part is sent; a chord that is forgotten here writes it twice.
        self._sizes: Any = LRUCache(limit=_REMEMBERED)

    def _get_pool(self, **options: Any) -> Any:
        kind = hurrying(options.pop("connection_class", redis.Connection))
        return super()._get_pool(connection_class=kind, **options)

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nothing: see above."""

    def ensure(self, fun: Callable[..., Any], args: Any, **policy: Any) -> Any:
        """As Celery, again and again; in a hurry once."""
        return super().ensure(fun, args, **policy) if left_s() is None else fun(*args)

    def apply_chord(self, header_result_args: Any, body: Any, **options: Any) -> None:
        """Before the first part: write all that the chord needs, its size too.

        Raises NotSentError, then nothing was sent. Not so the size of parts that a generator makes as they are sent to
        Redis: that is known, and written, before the last one.
        """
        if self.app.current_worker_task is not None:
            super().apply_chord(header_result_args, body, **options)
            return
        group_id, results = header_result_args
        with self._soon(f"the chord {group_id} was not sent, none of its parts was"):
            super().apply_chord(header_result_args, body, **options)
            if type(results) is list or rows_first(self.app):
                size = _size(results)
                super().set_chord_size(group_id, size)
                self._sizes[group_id] = size

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Before the last part: what is not written yet."""
        if self.app.current_worker_task is not None:
            super().set_chord_size(group_id, chord_size)
        elif self._sizes.pop(group_id, None) != chord_size:
            with self._soon(f"the chord {group_id} was sent without its last part, and will not end"):
                super().set_chord_size(group_id, chord_size)

    @contextmanager
    def _soon(self, if_not: str) -> Generator[None]:
        with hurried(ACCEPTED_S if rows_first(self.app) else CALLER_S):
            try:
                yield
            except (OperationalError, RedisError) as exc:
                raise in_words(exc, if_not, if_not, _TO_DO) from exc


def _size(results: Any) -> int:
    """How many parts end for a chord whose header has these results."""
    return sum(max(1, _size(one.results)) if isinstance(one, GroupResult) else 1 for one in results)
