"""What of a worker receives messages: Celery's consumer, which no message ends, and which logs none's content.

Celery logs the headers and a kilobyte of the body of each message that it cannot use. Arguments stand in both in clear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import RedisError

from beatline.engine import headers as h
from beatline.engine import seams
from beatline.logs import get_logger
from beatline.secrets import MASK

log = get_logger(__name__)

_SHOWN: Final = frozenset(
    {h.RUN_ID, h.TASK, h.V, h.ATTEMPT, h.DAY, h.EPOCH, h.PUBLISHED, "retries", "eta", "expires", "lang"}
)
"""The headers that hold no argument, and that say what a refused message was."""


class _Hidden:
    """Stands for a message's body where Celery prints that, and then its size."""

    def __repr__(self) -> str:
        return MASK


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

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """As Celery; of its arguments only the size is logged."""
        message.headers = {name: said if name in _SHOWN else MASK for name, said in message.headers.items()}
        super().on_unknown_task(_Hidden(), message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """As Celery; of its arguments only the size is logged."""
        super().on_invalid_task(_Hidden(), message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """As Celery, which logs that nobody can read it, and acknowledges it; only its size is logged."""
        log.error("message_not_decoded", content_type=str(message.content_type), **_outside(message))
        message.ack()

    def _message_report(self, body: Any, message: Any) -> str:
        return f"{_outside(message)}"


def _outside(message: Any) -> dict[str, Any]:
    return {"size_bytes": len(message.body), "headers": sorted(map(str, message.headers))}
