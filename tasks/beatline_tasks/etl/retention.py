"""What of etl's tables goes away: with the setting history_days, and with a job that is removed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Delete, delete, func, select

from beatline.clock import utc_now
from beatline.definitions import Definition
from beatline.ledger.database import guarded
from beatline_tasks.etl.tables import loads, rejected

if TYPE_CHECKING:
    from beatline.installation import Installation

_AT_ONCE: Final = 10_000


def prune(installation: Installation) -> dict[str, int]:
    """Remove what is older than history_days, in steps; how much. The last load of each target keeps its watermark."""
    oldest = utc_now() - timedelta(days=installation.settings.history_days)
    old_rows = select(rejected.c.id).where(rejected.c.at < oldest).limit(_AT_ONCE)
    last = select(func.max(loads.c.number)).group_by(loads.c.job_id, loads.c.target)
    old_loads = select(loads.c.number).where(loads.c.loaded_at < oldest, loads.c.number.not_in(last)).limit(_AT_ONCE)
    with guarded(installation.settings):
        return {
            "rejected": _remove(installation, delete(rejected).where(rejected.c.id.in_(old_rows))),
            "loads": _remove(installation, delete(loads).where(loads.c.number.in_(old_loads))),
        }


def removed(conn: Connection, installation: Installation, definition: Definition) -> None:
    """Take along what a removed job has kept for itself; its tables, its files and the list of those stay."""
    del installation
    conn.execute(delete(rejected).where(rejected.c.job_id == definition.id))
    conn.execute(delete(loads).where(loads.c.job_id == definition.id))


def _remove(installation: Installation, statement: Delete) -> int:
    total = 0
    while True:
        with installation.engine.begin() as conn:
            count = conn.execute(statement).rowcount
        total += count
        if count < _AT_ONCE:
            return total
