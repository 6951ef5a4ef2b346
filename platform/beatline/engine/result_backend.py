"""Celery's results in Redis, without the subscription that it opens for each task before that is sent.

Who waits for a result subscribes then, and looks first whether it is there already: nothing is missed. A caller who
never waits keeps no subscription open, and a Redis of results that is frozen holds nobody who only sends.
"""

from __future__ import annotations

from typing import Any

from beatline.engine.seams import RedisBackend


class ResultBackend(RedisBackend):
    """What `redis://` and `rediss://` mean for results of a Beatline app."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nothing: see above."""
