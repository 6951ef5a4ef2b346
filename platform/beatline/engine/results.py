"""Results that say so when they were not kept, or when their run is dead, instead of waiting for ever."""

from __future__ import annotations

from typing import Any, Final

from celery.exceptions import TimeoutError as CeleryTimeoutError
from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.engine.seams import AsyncResult
from beatline.errors import ResultNotKeptError

LOOK_S: Final = 1.0
"""How often a waiting caller looks whether its run has ended without keeping a result."""
DEAD_LOOKS: Final = 5
"""How often a run was seen dead before it is said to keep no result: who buries it writes that after it is dead."""


class KeptResult(AsyncResult):
    """Celery's result. Raises ResultNotKeptError for a run that has ended and kept none, RunDeadError for a dead one."""

    def get(self, timeout: float | None = None, **options: Any) -> Any:
        """Wait for the result, at most `timeout` seconds, as Celery does."""
        if self.ignored:
            raise ResultNotKeptError(self.id)
        give_up = None if timeout is None else monotonic_s() + timeout
        seen_dead = 0
        while True:
            left = LOOK_S if give_up is None else min(LOOK_S, give_up - monotonic_s())
            try:
                return super().get(timeout=max(left, 0.001), **options)
            except CeleryTimeoutError:
                if self._cache:  # Celery has the result: the time-out is the task's own
                    raise
                ended = self._ended_without()
                seen_dead += ended == "dead"
                if ended == "ended" or seen_dead >= DEAD_LOOKS:
                    raise ResultNotKeptError(self.id) from None
                if give_up is not None and monotonic_s() >= give_up:
                    raise

    def _ended_without(self) -> str | None:
        """How the run's record says that it is over, if no result is there; a worker writes that before its end."""
        installation = self.app.conf["beatline"]
        try:
            state: str | None = installation.redis.hget(installation.keys.run(self.id), "state")
        except RedisError:
            return None
        return state if state in ("ended", "dead") and not self.ready() else None
