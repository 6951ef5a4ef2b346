"""The family etl: jobs that transform rows into tables, and jobs that archive old days."""

from __future__ import annotations

from typing import Final

from beatline.families import Family, Kind, OwnSchedule

family: Final = Family(
    name="etl",
    queue="etl",
    modules=("beatline_tasks.etl.jobs",),
    kinds=(
        Kind(
            name="job",
            plural="jobs",
            model="beatline_tasks.etl.job:Job",
            task="etl.run_job",
            actions={
                "check": "beatline_tasks.etl.actions:check",
                "preview": "beatline_tasks.etl.actions:preview",
                "rewind": "beatline_tasks.etl.actions:rewind",
                "rejected": "beatline_tasks.etl.listing:rejected",
                "archives": "beatline_tasks.etl.listing:archives",
            },
            removed="beatline_tasks.etl.retention:removed",
        ),
    ),
    schedules=(OwnSchedule("beatline.prune-etl", "etl.prune_history", cron="37 3 * * *"),),
)
