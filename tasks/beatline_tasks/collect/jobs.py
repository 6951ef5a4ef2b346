"""The tasks of the family collect; what they do is imported when they run."""

from __future__ import annotations

from typing import Any, Final

from celery import Task, shared_task

from beatline.errors import ServiceError, TransientError
from beatline.task.context import current_run, installation
from beatline_tasks.collect.errors import SourceError

_LONGEST_WAIT_S: Final = 3600


@shared_task(
    name="collect.execute_task",
    bind=True,
    ignore_result=True,
    autoretry_for=(TransientError, ServiceError),
    max_retries=5,
    retry_backoff=2,
    retry_backoff_max=300,
)
def execute_task(self: Task[..., Any], source_id: str) -> dict[str, Any] | str:
    """Read what is new of a source (its name or id) into its dataset; `busy` if another run does so."""
    from beatline_tasks.collect.collecting import collect

    if not isinstance(source_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # a message can hold anything
        raise SourceError(f"collect.execute_task takes the name or the id of a source as text, not {source_id!r:.80}.")
    try:
        return collect(installation(), source_id, current_run())
    except TransientError as exc:
        if exc.retry_after_s is None:
            raise
        raise self.retry(exc=exc, countdown=min(exc.retry_after_s, _LONGEST_WAIT_S)) from exc
