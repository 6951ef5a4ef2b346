"""Schedules: list, show, make, change, pause, resume, run at once, remove."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Body, Query, Request, Response
from sqlalchemy import Connection

from beatline.api.context import PREFIX, In, Who, run_address
from beatline.api.models import (
    Accepted,
    Coming,
    NewSchedule,
    Occurrence,
    Pause,
    ScheduleChange,
    ScheduleDetail,
    ScheduleList,
    ScheduleSaved,
    ScheduleView,
)
from beatline.schedules import occurrences, store
from beatline.schedules.edit import dangling, edited, refuse_misfit, refuse_unknown
from beatline.schedules.model import Schedule, ScheduleSpec, read_spec
from beatline.schedules.run_now import run_now
from beatline.schedules.view import coming, shown
from beatline.schedules.zones import zone

AHEAD: Final = 5
PAST: Final = 10
router: Final = APIRouter(prefix="/schedules", tags=["schedules"])

Force = Annotated[bool, Query(description="Also for a task that is not known here, only to workers.")]


@router.get("", summary="List the schedules")
def list_schedules(context: In) -> ScheduleList:
    """All of them, by name."""
    with context.transaction() as conn:
        found = store.list_schedules(conn)
    return ScheduleList(items=[_view(schedule) for schedule in found])


@router.post("", status_code=201, summary="Make a schedule")
def create_schedule(
    context: In, who: Who, request: Request, response: Response, given: NewSchedule, force: Force = False
) -> ScheduleSaved:
    """Beat obeys it within a second. 409 if its name is taken."""
    spec = read_spec(given.name, given.model_dump(exclude={"name"}, exclude_unset=True))
    refuse_unknown(spec, context.installation.settings.queues, None if force else context.tasks)
    if not force:
        refuse_misfit(spec, context.tasks)
    with context.transaction() as conn:
        made = store.add(conn, spec, who=who)
        saved = _saved(conn, made)
    root = request.scope.get("root_path", "")
    response.headers["Location"] = f"{root}{PREFIX}/schedules/{quote(made.name, safe='')}"
    return saved


@router.get("/{name}", summary="Show a schedule")
def show_schedule(context: In, name: str) -> ScheduleDetail:
    """With its next times and what became of its last ones. `name` may be its id."""
    with context.transaction() as conn:
        schedule = store.get(conn, name)
        past = occurrences.latest(conn, schedule.id, PAST)
    ahead = coming(schedule, AHEAD) if schedule.live else []
    last = [Occurrence.model_validate(row) for row in past]
    return ScheduleDetail.model_validate({**shown(schedule), "coming": ahead, "occurrences": last})


@router.patch("/{name}", summary="Change a schedule")
def change_schedule(context: In, who: Who, name: str, given: ScheduleChange, force: Force = False) -> ScheduleSaved:
    """The fields that are given; the rest stays, a pause too. A new rule does not fire for the past."""
    fields = given.model_dump(exclude_unset=True)
    known = None if force or not fields.keys() & {"task", "args", "kwargs"} else context.tasks

    def checked(current: Schedule) -> ScheduleSpec:
        spec = edited(current, fields)
        refuse_unknown(spec, context.installation.settings.queues, None if given.task is None else known)
        if known is not None:
            refuse_misfit(spec, known)
        return spec

    with context.transaction() as conn:
        after, _ = store.edit(conn, name, checked, who=who)
        return _saved(conn, after)


@router.delete("/{name}", summary="Remove a schedule")
def remove_schedule(context: In, who: Who, name: str) -> ScheduleView:
    """The history of its runs stays. Answers with what it was."""
    with context.transaction() as conn:
        return _view(store.remove(conn, name, who=who))


@router.post("/{name}/pause", summary="Pause a schedule")
def pause_schedule(context: In, who: Who, name: str, given: Annotated[Pause | None, Body()] = None) -> ScheduleView:
    """It fires no more until it is resumed; deploys and restarts do not undo that. 409 if it is paused already."""
    with context.transaction() as conn:
        return _view(store.pause(conn, name, who=who, reason=given.reason if given else None))


@router.post("/{name}/resume", summary="Resume a schedule")
def resume_schedule(context: In, who: Who, name: str) -> ScheduleView:
    """It fires from now on; what a pause left out is not made up for. Ends a quarantine too. 409 if it is neither."""
    with context.transaction() as conn:
        return _view(store.resume(conn, name, who=who))


@router.post("/{name}/run-now", status_code=202, summary="Run a schedule's task at once")
def run_schedule(context: In, who: Who, request: Request, response: Response, name: str) -> Accepted:
    """Beside its times, paused or not."""
    run_id = run_now(context.installation, name, app=context.celery, who=who)
    response.headers["Location"] = run_address(request, run_id)
    return Accepted(run_id=run_id)


@router.get("/{name}/next", summary="Show a schedule's next times")
def next_times(context: In, name: str, count: Annotated[int, Query(ge=1, le=1000)] = 10) -> Coming:
    """As its rule has them, paused or not."""
    with context.transaction() as conn:
        schedule = store.get(conn, name)
    found, tz = coming(schedule, count), schedule.spec().trigger.tz
    local = [slot.astimezone(zone(tz)).isoformat() for slot in found]
    return Coming(zone=tz, utc=found, local=local)


def _view(schedule: Schedule) -> ScheduleView:
    return ScheduleView.model_validate(shown(schedule))


def _saved(conn: Connection, schedule: Schedule) -> ScheduleSaved:
    return ScheduleSaved.model_validate({**shown(schedule), "warnings": dangling(conn, schedule.spec())})
