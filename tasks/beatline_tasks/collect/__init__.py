"""The family collect: reads sources (http, file, sql) into datasets."""

from __future__ import annotations

from typing import Final

from beatline.families import Family, Kind

family: Final = Family(
    name="collect",
    queue="collect",
    modules=("beatline_tasks.collect.jobs",),
    kinds=(
        Kind(
            name="source",
            plural="sources",
            model="beatline_tasks.collect.source:Source",
            task="collect.execute_task",
            actions={
                "check": "beatline_tasks.collect.actions:check",
                "preview": "beatline_tasks.collect.actions:preview",
            },
        ),
    ),
)
