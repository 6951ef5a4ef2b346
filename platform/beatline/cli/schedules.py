"""`beatline schedules`: when tasks run, and what became of each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from beatline.cli.definitions import Yes, transaction
from beatline.cli.output import AsJson, emit, operator, say
from beatline.clock import utc_now
from beatline.errors import DefinitionError, UnknownQueueError
from beatline.families import kinds
from beatline.installation import Installation
from beatline.queues.routing import known_queues
from beatline.schedules import occurrences, store
from beatline.schedules.model import Schedule, ScheduleSpec, read_spec
from beatline.schedules.triggers import in_people_words, next_slot, slots
from beatline.schedules.zones import zone
from beatline.secrets import mask

if TYPE_CHECKING:
    from sqlalchemy import Connection

app = typer.Typer(no_args_is_help=True, help="Schedules: when tasks run, and what became of each time.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name or id.", show_default=False)]

_COLUMNS: Final = ("name", "task", "when", "zone", "next", "state", "last")
_AHEAD: Final = 5
_PAST: Final = 10


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, dot, dash and underscore.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name, such as collect.execute_task.")],
    cron: Annotated[str | None, typer.Option("--cron", help='Five fields, "0 2 * * *"; or six, seconds first.')] = None,
    every: Annotated[str | None, typer.Option("--every", help="A period: 30s, 5m, 1h30m, 250ms.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="Once, at this time: 2027-01-31T09:00.")] = None,
    tz: Annotated[str | None, typer.Option("--tz", help="The time zone of cron, --at and --start. Else UTC.")] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="From when --every counts, and first runs. Else now, one period on.")
    ] = None,
    args: Annotated[str | None, typer.Option("--args", help="""A JSON list, '["weather"]'.""")] = None,
    kwargs: Annotated[str | None, typer.Option("--kwargs", help="""A JSON object, '{"full": true}'.""")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-Q", help="Else the task's own.")] = None,
    priority: Annotated[int | None, typer.Option("--priority", "-p", help="0 to 9; 9 goes first.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also for a task that is not known here.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a schedule. Beat obeys it within a second; no restart is needed."""
    raw = {
        "task": task, "cron": cron, "every": every, "at": at, "tz": tz, "start": start, "queue": queue,
        "priority": priority, "args": _json("args", args), "kwargs": _json("kwargs", kwargs),
    }  # fmt: skip
    spec = read_spec(name, raw)
    installation = Installation.load()
    _refuse_unknown(spec, installation, force)
    with transaction(installation) as conn:
        made = store.add(conn, spec, who=operator())
        _warn_of_dangling(conn, spec)
    if as_json:
        emit(_view(made), as_json=True)
        return
    say(f"Added {made.name!r}: {_when(made)}. It runs next at:")
    emit(_coming(made, 3, as_json=False), as_json=False)


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Show all: when each runs next, whether it is paused or quarantined and why, and what became of its last time."""
    with transaction(Installation.load()) as conn:
        found = store.list_schedules(conn)
        last = occurrences.last_outcomes(conn)
    views = [_view(schedule) | {"last": _last(last.get(schedule.id))} for schedule in found]
    if as_json:
        emit(views, as_json=True)
        return
    rows = [view | {"state": _explained(view)} for view in views]
    emit(rows, as_json=False, columns=_COLUMNS, empty="There is no schedule yet: `beatline schedules add --help`.")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one: its next times, and its last ones with outcome and run."""
    with transaction(Installation.load()) as conn:
        schedule = store.get(conn, name)
        past = occurrences.latest(conn, schedule.id, _PAST)
    ahead = _coming(schedule, _AHEAD, as_json=as_json) if schedule.live else []
    view = _view(schedule)
    if as_json:
        emit(view | {"coming": ahead, "occurrences": past}, as_json=True)
        return
    emit({key: value for key, value in view.items() if value not in (None, [], {})}, as_json=False)
    if ahead:
        emit(ahead, as_json=False)
    emit([_line(row) for row in past], as_json=False, empty="Nothing of it has come due yet.")


@app.command()
def pause(
    name: Name,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for who comes after you.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fire it no more until it is resumed. Deploys and restarts do not undo it."""
    with transaction(Installation.load()) as conn:
        paused = store.pause(conn, name, who=operator(), reason=reason)
    _tell(paused, f"Paused {paused.name!r}: `beatline schedules resume {paused.name}` lets it run again.", as_json)


@app.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Fire it again from now on; what a pause left out is not made up for. Also ends a quarantine."""
    with transaction(Installation.load()) as conn:
        resumed = store.resume(conn, name, who=operator())
    _tell(resumed, f"Resumed {resumed.name!r}. It runs next at:", as_json)
    if not as_json:
        emit(_coming(resumed, 1, as_json=False), as_json=False)


@app.command("run-now")
def run_at_once(name: Name, as_json: AsJson = False) -> None:
    """Run its task at once, beside its times, paused or not."""
    from beatline.schedules.run_now import run_now, task_app

    installation = Installation.load()
    run_id = run_now(installation, name, app=task_app(installation), who=operator())
    if as_json:
        emit({"run_id": run_id}, as_json=True)
    else:
        say(f"Run {run_id} is accepted: `beatline runs show {run_id}`.")


@app.command()
def remove(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove it; the history of its runs stays."""
    installation = Installation.load()
    with transaction(installation) as conn:
        schedule = store.get(conn, name)
    if not yes and not typer.confirm(f"Remove the schedule {schedule.name!r}?", err=True):
        raise typer.Exit(1)
    with transaction(installation) as conn:
        removed = store.remove(conn, str(schedule.id), who=operator())
    _tell(removed, f"Removed {removed.name!r}.", as_json)


@app.command("next")
def coming(
    name: Name,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show its next times, in its own zone and in UTC."""
    with transaction(Installation.load()) as conn:
        schedule = store.get(conn, name)
    emit(_coming(schedule, count, as_json=as_json), as_json=as_json, empty="It will not run again.")
    if not schedule.live:
        say(f"It is {_explained(_view(schedule))}, and does not run.")


def _json(option: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as exc:
        raise DefinitionError(
            f"--{option} {text[:80] if text else ''!r} is not JSON: {exc}. The shell eats bare quotes: write "
            """--args '["weather"]' or --kwargs '{"full": true}'."""
        ) from None


def _refuse_unknown(spec: ScheduleSpec, installation: Installation, force: bool) -> None:
    queues = known_queues(installation.settings.queues)
    if spec.queue is not None and spec.queue not in queues:
        raise UnknownQueueError(spec.queue, sorted(queues))
    if force:
        return
    from beatline.schedules.run_now import task_app

    known = [task for task in task_app(installation).tasks if not task.startswith("celery.")]
    if spec.task not in known:
        close = " or ".join(get_close_matches(spec.task, known, n=3))
        raise DefinitionError(
            f"No task {spec.task!r} is known here{f'; did you mean {close}?' if close else '.'} Name the "
            "module of your own tasks in BEATLINE_TASK_MODULES, or give --force if only workers know it."
        )


def _warn_of_dangling(conn: Connection, spec: ScheduleSpec) -> None:
    from beatline.definitions import store as definitions

    for kind in kinds().values():
        given: Any = spec.args[0] if spec.args else spec.kwargs.get(f"{kind.name}_id")
        if kind.task == spec.task and isinstance(given, str) and definitions.find(conn, kind.name, given) is None:
            say(f"There is no {kind.name} {given!r} yet: its runs fail until `beatline {kind.plural} add {given}`.")


def _tell(schedule: Schedule, text: str, as_json: bool) -> None:
    if as_json:
        emit(_view(schedule), as_json=True)
    else:
        say(text)


def _view(schedule: Schedule) -> dict[str, Any]:
    """A schedule as people and programs are shown it: secrets masked."""
    try:
        trigger = schedule.spec().trigger
        upcoming = next_slot(trigger, max(utc_now(), schedule.decided_until))
        overdue = next_slot(trigger, schedule.decided_until)
    except DefinitionError:
        upcoming = overdue = None
    state = (
        "removed" if schedule.removed_at else "quarantined" if schedule.quarantined else
        "paused" if schedule.paused_at else "active" if overdue else "finished"
    )  # fmt: skip
    return {
        "name": schedule.name, "task": schedule.task, "args": mask(schedule.args), "kwargs": mask(schedule.kwargs),
        "queue": schedule.queue, "priority": schedule.priority, "when": _when(schedule),
        "zone": schedule.trigger.get("tz"), "trigger": schedule.trigger,
        "next": upcoming if schedule.live else None, "state": state,
        "reason": schedule.quarantined or schedule.pause_reason,
        "paused_by": schedule.paused_by, "paused_at": schedule.paused_at, "owner": schedule.owner,
        "version": schedule.version, "id": str(schedule.id), "changed": schedule.updated_at,
    }  # fmt: skip


def _when(schedule: Schedule) -> str:
    try:
        return in_people_words(schedule.spec().trigger)
    except DefinitionError:
        return ""


def _explained(view: Mapping[str, Any]) -> str:
    by = f" by {view['paused_by']}" if view["state"] == "paused" else ""
    return f"{view['state']}{by}" + (f": {view['reason']}" if view["reason"] else "")


def _coming(schedule: Schedule, count: int, *, as_json: bool) -> list[dict[str, Any]]:
    """The next slots: for programs in ISO 8601, for people under the name of the zone."""
    trigger = schedule.spec().trigger
    local, after = zone(trigger.tz), max(utc_now(), schedule.decided_until)
    found = list(islice(slots(trigger, after), count))
    if as_json:
        return [{"local": slot.astimezone(local).isoformat(), "utc": slot, "zone": trigger.tz} for slot in found]
    zones = {trigger.tz: local, "UTC": UTC}
    return [{name: f"{slot.astimezone(tz):%a %Y-%m-%d %H:%M:%S %z}" for name, tz in zones.items()} for slot in found]


def _last(row: Mapping[str, Any] | None) -> str | None:
    if row is None:
        return None
    return f"{row['outcome']}, {row['run_state']}" if row["run_state"] else str(row["outcome"])


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    first, last = row["slot"], row["last_slot"]
    return {
        "slot": first, "until": last if isinstance(last, datetime) and last != first else None,
        "slots": row["slots"], "outcome": row["outcome"], "run": row["run_id"], "run_state": row["run_state"],
        "late_s": round(row["lateness_s"], 3), "why": row["reason"],
    }  # fmt: skip
