"""The tasks of the family maintenance; what they do is imported when they run."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from beatline.clock import utc_today
from beatline.errors import ServiceError
from beatline.task.context import installation


@shared_task(
    name="maintenance.prune_history",
    ignore_result=True,
    autoretry_for=(ServiceError,),
    max_retries=5,
    retry_backoff=60,
    retry_backoff_max=3600,
)
def prune_history() -> dict[str, Any]:
    """Remove history older than the setting history_days; what is still open, and dead letters, stay."""
    from beatline.ledger.database import guarded
    from beatline.ledger.retention import prune

    ours = installation()
    with guarded(ours.settings):
        pruned = prune(ours.engine, ours.settings.history_days, utc_today())
    return {
        "days": [day.isoformat() for day in pruned.days],
        "busy": [day.isoformat() for day in pruned.busy],
        "kept": pruned.kept,
        "late": pruned.late,
    }
