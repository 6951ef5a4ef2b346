"""The task that does nothing, for both systems."""

from __future__ import annotations

from celery import shared_task


@shared_task(name="bench.noop", ignore_result=True)
def noop() -> None:
    """Nothing, as fast as it goes."""
