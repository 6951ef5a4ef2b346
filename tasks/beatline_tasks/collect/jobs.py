"""The tasks of the family collect; what they do is imported when they run."""

from __future__ import annotations

from typing import Any

from celery import Task, shared_task

from beatline.errors import TransientError
from beatline.task.context import current_run, installation
from beatline.task.retries import RETRIED, retry_when_asked


@shared_task(name="collect.execute_task", bind=True, ignore_result=True, **RETRIED)
def execute_task(self: Task[..., Any], source_id: str) -> dict[str, Any] | str:
    """Read what is new of a source (its name or id) into its dataset; `busy` if another run does so."""
    from beatline_tasks.collect.collecting import collect

    try:
        return collect(installation(), source_id, current_run())
    except TransientError as exc:
        retry_when_asked(self, exc)
