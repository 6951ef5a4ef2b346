"""The tasks of the family report; what they do is imported when they run.

A report is a chain of four tasks, which hand on the issue's id and nothing else. Each is tried again three times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celery import Task, shared_task

from beatline.errors import BeatlineError, ServiceError, TransientError
from beatline.task.context import current_run, installation

RETRIES: Final = 3
_WAIT_S: Final = 60.0


@shared_task(name="report.generate_scheduled", bind=True, ignore_result=True, max_retries=RETRIES)
def generate_scheduled(self: Task[..., Any], report_id: str, at: str | None = None) -> dict[str, Any]:
    """Begin the report (its name or id) for the period before its slot, or before `at`; the steps follow by themselves."""
    from beatline_tasks.report.generating import generate

    return _tried(self, lambda: generate(installation(), report_id, current_run(), at), lambda: 5.0)


@shared_task(name="report.fetch_data", bind=True, ignore_result=True, max_retries=RETRIES)
def fetch_data(self: Task[..., Any], issue_id: str) -> dict[str, Any]:
    """Ask the report's queries and keep their rows."""
    from beatline_tasks.report.fetching import fetch

    return _step(self, issue_id, "begun", fetch)


@shared_task(name="report.render", bind=True, ignore_result=True, max_retries=RETRIES)
def render(self: Task[..., Any], issue_id: str) -> dict[str, Any]:
    """Make the report's files of its rows."""
    from beatline_tasks.report.rendering import render

    return _step(self, issue_id, "fetched", render)


@shared_task(name="report.send", bind=True, ignore_result=True, max_retries=RETRIES)
def send(self: Task[..., Any], issue_id: str) -> dict[str, Any]:
    """Deliver the report's files; each recipient gets one mail at most."""
    from beatline_tasks.report.sending import send

    return _step(self, issue_id, "rendered", send)


@shared_task(name="report.clean_up", bind=True, ignore_result=True, max_retries=RETRIES)
def clean_up(self: Task[..., Any], issue_id: str) -> dict[str, Any]:
    """Take the rows away, end the issue and tell the owner what went wrong: at the chain's end, and when a step fails."""
    from beatline_tasks.report.cleaning import clean_up
    from beatline_tasks.report.steps import retry_wait_s

    ours = installation()
    return _tried(self, lambda: clean_up(ours, issue_id), lambda: retry_wait_s(ours, issue_id))


@shared_task(name="report.sweep", ignore_result=True, max_retries=RETRIES, autoretry_for=(ServiceError,))
def sweep() -> dict[str, Any]:
    """End the issues whose steps died without a word."""
    from beatline_tasks.report.sweeping import sweep

    return sweep(installation())


def _step(task: Task[..., Any], issue_id: str, awaited: str, work: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    from beatline_tasks.report.steps import retry_wait_s, run_step

    ours = installation()
    return _tried(
        task,
        lambda: run_step(ours, issue_id, current_run(), awaited, work),
        lambda: retry_wait_s(ours, issue_id),
    )


def _tried(
    task: Task[..., Any], work: Callable[[], dict[str, Any]], wait_s: Callable[[], float | None]
) -> dict[str, Any]:
    """Do the work; what may pass is tried again, each time after twice the wait. What a person must mend is not."""
    try:
        return work()
    except Exception as exc:
        if isinstance(exc, BeatlineError) and not isinstance(exc, TransientError | ServiceError):
            raise
        wait = wait_s()
        countdown = (_WAIT_S if wait is None else wait) * 2**task.request.retries
        raise task.retry(exc=exc, countdown=countdown) from exc
