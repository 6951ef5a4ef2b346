"""The tasks of the family maintenance; what they do is imported when they run."""

from __future__ import annotations

from typing import Any, Final

from celery import shared_task

from beatline.clock import utc_today
from beatline.errors import ServiceError, TransientError
from beatline.task.context import installation
from beatline_tasks.maintenance.errors import MaintenanceError

_LONGEST_STATEMENT_S: Final = 200
"""Below the soft limit of the queue `default`."""


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


@shared_task(
    name="maintenance.tend_artifacts",
    ignore_result=True,
    autoretry_for=(ServiceError,),
    max_retries=3,
    retry_backoff=30,
    retry_backoff_max=300,
)
def tend_artifacts() -> dict[str, Any]:
    """Remove stored files that expired or were never recorded, and move over what waits for the S3-style store."""
    from dataclasses import asdict

    from beatline.artifacts.tending import tend
    from beatline.ledger.database import guarded

    ours = installation()
    with guarded(ours.settings):
        return asdict(tend(ours))


@shared_task(
    name="maintenance.cleanup_expired_tokens",
    ignore_result=True,
    autoretry_for=(TransientError, ServiceError),
    max_retries=5,
    retry_backoff=10,
    retry_backoff_max=600,
)
def cleanup_expired_tokens(
    connection: str,
    table: str,
    expiry_column: str,
    batch_size: int = 1000,
    statement_timeout_s: float = 30,
    time_zone: str | None = None,
) -> dict[str, Any]:
    """Delete the rows of `schema.table` whose expiry has passed, in batches, over a connection that may write.

    A column of type timestamp without time zone needs `time_zone`: that in which its times are written.
    """
    from dataclasses import asdict

    from beatline.schedules.zones import is_zone
    from beatline_tasks.maintenance.cleanup import LARGEST_BATCH, Expiring, clean_up

    given: dict[str, object] = {"connection": connection, "table": table, "expiry_column": expiry_column}
    for name, value in given.items():
        _check(isinstance(value, str), name, value, "a text")
    _check(
        type(batch_size) is int and 1 <= batch_size <= LARGEST_BATCH, "batch_size", batch_size, f"1 to {LARGEST_BATCH}"
    )
    limit = f"above 0, at most {_LONGEST_STATEMENT_S}"
    _check(_is_time(statement_timeout_s), "statement_timeout_s", statement_timeout_s, limit)
    zoned = time_zone is None or is_zone(str(time_zone))  # a message can hold anything
    _check(zoned, "time_zone", time_zone, "a time zone's name, such as Europe/Berlin or UTC")
    cleaned = clean_up(
        installation(),
        connection,
        Expiring(table, expiry_column, time_zone),
        batch_size=batch_size,
        statement_timeout_s=statement_timeout_s,
    )
    return {"connection": connection, "table": table, **asdict(cleaned)}


@shared_task(
    name="maintenance.warm_cache",
    ignore_result=True,
    autoretry_for=(TransientError, ServiceError),
    max_retries=3,
    retry_backoff=10,
    retry_backoff_max=300,
)
def warm_cache(entries: list[dict[str, Any]], ttl_s: int = 600, max_bytes: int = 1_000_000) -> dict[str, Any]:
    """Put what queries and addresses give into Redis: each entry has `key`, and `connection` with `query`, or `url`."""
    from dataclasses import asdict

    from beatline.logs import get_logger
    from beatline_tasks.maintenance.warming import warm

    warmed = warm(installation(), {"entries": entries, "ttl_s": ttl_s, "max_bytes": max_bytes})
    if warmed.failed:
        get_logger(__name__).warning("cache_not_warmed", failed=warmed.failed)
    return asdict(warmed)


def _check(fits: bool, name: str, value: object, wanted: str) -> None:
    if not fits:
        raise MaintenanceError(f"{name}: must be {wanted}, not {value!r:.80}.")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LONGEST_STATEMENT_S
