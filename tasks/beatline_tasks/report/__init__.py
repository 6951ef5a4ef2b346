"""The family report: asks, draws and sends reports, one issue a period, one mail at most to each recipient."""

from __future__ import annotations

from typing import Final

from beatline.families import Family, Kind, OwnSchedule

family: Final = Family(
    name="report",
    queue="report",
    modules=("beatline_tasks.report.jobs",),
    kinds=(
        Kind(
            name="report",
            plural="reports",
            model="beatline_tasks.report.spec:Report",
            task="report.generate_scheduled",
            actions={
                "check": "beatline_tasks.report.actions:check",
                "preview": "beatline_tasks.report.actions:preview",
                "deliveries": "beatline_tasks.report.actions:deliveries_of",
                "files": "beatline_tasks.report.actions:files",
            },
            removed="beatline_tasks.report.actions:removed",
        ),
    ),
    schedules=(OwnSchedule("beatline.sweep-reports", "report.sweep", cron="*/5 * * * *"),),
)
