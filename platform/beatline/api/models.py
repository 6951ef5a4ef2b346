"""What comes in and goes out, where it is not a dataclass of the platform already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from beatline.ledger.history import Attempt, Run
from beatline.queues.census import Worker


def _storable(value: str) -> str:
    if "\x00" in value or any(0xD800 <= ord(char) < 0xE000 for char in value):
        raise ValueError("holds a NUL character or half a surrogate pair, which no text has")
    return value


Words = Annotated[str, Field(max_length=1000), AfterValidator(_storable)]
_PERIOD: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}


class RunPage(BaseModel):
    """Some runs, the newest first."""

    items: list[Run]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


@dataclass(frozen=True, slots=True)
class RunDetail(Run):
    """A run with its attempts, the first first, and the runs that were made of it by retrying."""

    attempts: list[Attempt]
    retried_as: list[str]


class Accepted(BaseModel):
    """A run that was accepted. One that is not queued yet is put into its queue by a recorder."""

    run_id: str
    retry_of: str | None = None
    queued: bool | None = None


class Cancel(BaseModel):
    """Why a run is cancelled, and whether its task is given no time to tidy up."""

    model_config = ConfigDict(extra="forbid")

    reason: Words | None = None
    hard: bool = False


class WorkerList(BaseModel):
    """The workers that answer within a second, and those that hold leases."""

    items: list[Worker]


class Synced(BaseModel):
    """What bringing schedules in line with the definitions of one kind came to."""

    kind: str
    ok: bool
    text: str
    details: Mapping[str, Any]
    rows: list[Mapping[str, Any]]


class SyncReport(BaseModel):
    """One part for each kind of definition that keeps schedules."""

    items: list[Synced]


class ScheduleFields(BaseModel):
    """What a schedule is: give one of cron, every and at, or `trigger` as it is shown."""

    model_config = ConfigDict(extra="forbid")

    cron: str | None = Field(default=None, description="Five fields, or six with seconds first.")
    every: Any = Field(default=None, description="A period: 30s, 5m, 1h30m, or seconds.", json_schema_extra=_PERIOD)
    at: str | None = Field(default=None, description="Once, at this time.")
    tz: str | None = Field(default=None, description="The time zone of cron, at and start; else UTC.")
    start: str | None = Field(default=None, description="From when `every` counts.")
    trigger: dict[str, Any] | None = Field(default=None, description="In place of those five.")
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    queue: str | None = Field(default=None, description="Else the task's own.")
    priority: int | None = Field(default=None, ge=0, le=9, description="9 goes first.")


class NewSchedule(ScheduleFields):
    """A schedule to be made."""

    name: str
    task: str


class ScheduleChange(ScheduleFields):
    """The fields that change; null puts one back to its default."""

    task: str | None = None


class Pause(BaseModel):
    """Why a schedule is paused."""

    model_config = ConfigDict(extra="forbid")

    reason: Words | None = None


class ScheduleView(BaseModel):
    """A schedule as it is shown: secrets masked. `next` is null while it does not run."""

    name: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str | None
    priority: int | None
    when: str
    zone: str | None
    trigger: dict[str, Any]
    next: datetime | None
    state: str = Field(description="active, paused, quarantined, finished or removed")
    reason: str | None
    paused_by: str | None
    paused_at: datetime | None
    owner: str
    version: int
    id: str
    changed: datetime


class ScheduleSaved(ScheduleView):
    """A schedule after it was written, with what may be wrong all the same."""

    warnings: list[str]


class ScheduleList(BaseModel):
    """Every schedule, by name."""

    items: list[ScheduleView]


class Occurrence(BaseModel):
    """What became of a slot, or of `slots` of them in a row."""

    slot: datetime
    last_slot: datetime
    slots: int
    outcome: str
    reason: str | None
    run_id: str | None
    run_state: str | None
    lateness_s: float


class ScheduleDetail(ScheduleView):
    """A schedule with its next times and its last ones."""

    coming: list[datetime]
    occurrences: list[Occurrence]


class Coming(BaseModel):
    """Next times, in UTC and in the schedule's zone."""

    zone: str
    utc: list[datetime]
    local: list[str]


class Health(BaseModel):
    """Says that it is well."""

    status: str
