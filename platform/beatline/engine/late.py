"""Results that are subscribed to when somebody waits for one, and not when a task is sent.

Celery subscribes to each part of a group as it sends it. A caller who never waits would keep those subscriptions open,
and one whose parts a frozen Redis did not take would be held by them: when they are made, and again when they are undone.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from beatline.engine.seams import ResultConsumer


class LateConsumer(ResultConsumer):
    """Misses nothing: what is subscribed to late is looked at after that, for it may have come before."""

    _wanted: set[str]

    def _reset_sync(self) -> None:
        super()._reset_sync()
        self._wanted = set()

    def consume_from(self, task_id: str) -> None:
        """Take note of a result; who waits subscribes."""
        self._wanted.add(task_id)

    def cancel_for(self, task_id: str) -> None:
        """Nobody wants that result any more."""
        self._wanted.discard(task_id)
        super().cancel_for(task_id)

    def on_wait_for_pending(self, result: Any, **options: Any) -> None:
        """Somebody begins to wait."""
        self._subscribe()
        super().on_wait_for_pending(result, **options)

    def drain_events(self, timeout: float | None = None) -> None:
        """Somebody waits, or a greenlet does for all."""
        try:
            self._subscribe()
        except RedisError as exc:
            raise ConnectionError(str(exc)) from exc  # on which Celery's drainers wait, and go on
        super().drain_events(timeout)

    def _subscribe(self) -> None:
        wanted = tuple(self._wanted)
        if not wanted:
            return
        with self._locked():
            for task_id in wanted:
                super().consume_from(task_id)
            keys = [self.backend.get_key_for_task(task_id) for task_id in wanted]
            kept = self.backend.ensure(self.backend.client.mget, (keys,))
            self._wanted.difference_update(wanted)
            for meta in filter(None, kept):
                self.on_state_change(self.backend.decode_result(meta), None)
