"""The tasks of the family etl; what they do is imported when they run."""

from __future__ import annotations

from typing import Any

from celery import Task, shared_task

from beatline.errors import BeatlineError, ServiceError, TransientError
from beatline.task.context import current_run, installation
from beatline.task.retries import RETRIED, retry_when_asked


@shared_task(name="etl.run_job", bind=True, ignore_result=True, **RETRIED)
def run_job(self: Task[..., Any], job_id: str) -> dict[str, Any] | str:
    """Load what a job (its name or id) has to load, and count it; `busy` if another run of the job does so."""
    from beatline_tasks.etl.running import run_load

    try:
        return run_load(installation(), job_id, current_run())
    except TransientError as exc:
        retry_when_asked(self, exc)


@shared_task(
    name="etl.archive",
    bind=True,
    ignore_result=True,
    autoretry_for=(TransientError, ServiceError),
    max_retries=5,
    retry_backoff=30,
    retry_backoff_max=1800,
)
def archive(self: Task[..., Any], job_id: str) -> dict[str, Any] | str:
    """Bring the past days of a job's table into files, and out of the table; `busy` if another run does so."""
    from beatline.logs import get_logger
    from beatline_tasks.etl.archive import run_archive

    try:
        return run_archive(installation(), job_id, current_run())
    except BeatlineError as exc:
        get_logger(__name__).error("archive_failed", job=str(job_id)[:100], error=str(exc))
        if isinstance(exc, TransientError):
            retry_when_asked(self, exc)
        raise


@shared_task(
    name="etl.prune_history",
    ignore_result=True,
    autoretry_for=(ServiceError,),
    max_retries=5,
    retry_backoff=60,
    retry_backoff_max=3600,
)
def prune_history() -> dict[str, int]:
    """Remove rejected rows and notes of loads older than the setting history_days; each job's last load stays."""
    from beatline_tasks.etl.retention import prune

    return prune(installation())
