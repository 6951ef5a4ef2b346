"""How a task of a family is tried again when a server of the user's, or one of ours, cannot answer now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from beatline.errors import ServiceError, TransientError

if TYPE_CHECKING:
    from celery import Task

RETRIED: Final[dict[str, Any]] = {
    "autoretry_for": (TransientError, ServiceError),
    "max_retries": 5,
    "retry_backoff": 2,
    "retry_backoff_max": 300,
}
"""What most tasks say of it in their decorator: after 2, 4, 8 … seconds, with Celery's jitter, five times."""

_LONGEST_WAIT_S: Final = 3600


def retry_when_asked(task: Task[..., Any], exc: TransientError) -> NoReturn:
    """Let the run be tried again: when the error says, an hour at the latest; else as the task's own retries are."""
    if exc.retry_after_s is None:
        raise exc
    raise task.retry(exc=exc, countdown=min(exc.retry_after_s, _LONGEST_WAIT_S)) from exc
