"""The family maintenance: what an installation does for itself; it runs on the queue `default`."""

from __future__ import annotations

from typing import Final

from beatline.families import Family, OwnSchedule
from beatline.queues.topology import DEFAULT

family: Final = Family(
    name="maintenance",
    queue=DEFAULT,
    modules=("beatline_tasks.maintenance.jobs",),
    schedules=(OwnSchedule("beatline.prune-history", "maintenance.prune_history", cron="17 3 * * *"),),
)
