"""The family maintenance: what an installation does for itself; it runs on the queue `default`."""

from __future__ import annotations

from typing import Final

from beatline.families import Family, Kind, OwnSchedule
from beatline.queues.topology import DEFAULT

family: Final = Family(
    name="maintenance",
    queue=DEFAULT,
    modules=("beatline_tasks.maintenance.jobs",),
    kinds=(
        Kind(
            name="connection",
            plural="connections",
            model="beatline.connections.model:Connection",
            actions={"check": "beatline.connections.actions:check"},
        ),
    ),
    schedules=(
        OwnSchedule("beatline.prune-history", "maintenance.prune_history", cron="17 3 * * *"),
        OwnSchedule("beatline.tend-artifacts", "maintenance.tend_artifacts", cron="*/10 * * * *"),
    ),
)
