"""What of a worker receives messages: Celery's consumer, which no message ends, whatever stands in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from beatline.engine import seams
from beatline.logs import get_logger

log = get_logger(__name__)


class Consumer(seams.Consumer):
    """A worker's consumer. `worker_consumer` names it; who sets another does without what it promises."""

    def create_task_handler(self, **options: Any) -> Callable[[Any], Any]:
        """What takes each message. One that it fails on is refused: given back, it would end the next worker too."""
        take = super().create_task_handler(**options)
        not_its_fault: tuple[type[BaseException], ...] = (*self.connection_errors, *self.channel_errors, RedisError)

        def handle(message: Any) -> Any:
            try:
                return take(message)
            except not_its_fault:
                raise
            except Exception as exc:
                if hasattr(message, "claimed"):
                    raise  # only with its worker does its lease end, after which it is tried again
                if message.acknowledged:
                    return log.exception("message_gone", headers=sorted(map(str, message.headers)))
                return self.on_invalid_task(None, message, exc)

        return handle
