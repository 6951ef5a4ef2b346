"""`beatline schedules`: when tasks run, and what became of each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from beatline.cli.definitions import Yes, transaction
from beatline.cli.output import AsJson, emit, operator, say
from beatline.errors import DefinitionError
from beatline.installation import Installation
from beatline.schedules import occurrences, store
from beatline.schedules.edit import dangling, edited, refuse_misfit, refuse_unknown
from beatline.schedules.model import Schedule, ScheduleSpec, read_spec
from beatline.schedules.view import coming as next_slots
from beatline.schedules.view import in_words, shown
from beatline.schedules.zones import zone

app = typer.Typer(no_args_is_help=True, help="Schedules: when tasks run, and what became of each time.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name or id.", show_default=False)]
CronOption = Annotated[str | None, typer.Option("--cron", help='Five fields, "0 2 * * *"; or six, seconds first.')]
Every = Annotated[str | None, typer.Option("--every", help="A period: 30s, 5m, 1h30m, 250ms.")]
At = Annotated[str | None, typer.Option("--at", help="Once, at this time: 2027-01-31T09:00.")]
Tz = Annotated[str | None, typer.Option("--tz", help="The time zone of cron, --at and --start. Else UTC.")]
Start = Annotated[
    str | None, typer.Option("--start", help="From when --every counts, and first runs. Else now, one period on.")
]
Args = Annotated[str | None, typer.Option("--args", help="""A JSON list, '["weather"]'.""")]
Kwargs = Annotated[str | None, typer.Option("--kwargs", help="""A JSON object, '{"full": true}'.""")]
QueueName = Annotated[str | None, typer.Option("--queue", "-Q", help="Else the task's own.")]
Priority = Annotated[int | None, typer.Option("--priority", "-p", help="0 to 9; 9 goes first.")]
Force = Annotated[bool, typer.Option("--force", help="Also for a task that is not known here.")]

_COLUMNS: Final = ("name", "task", "when", "zone", "next", "state", "last")
_AHEAD: Final = 5
_PAST: Final = 10


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, dot, dash and underscore.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name, such as collect.execute_task.")],
    cron: CronOption = None,
    every: Every = None,
    at: At = None,
    tz: Tz = None,
    start: Start = None,
    args: Args = None,
    kwargs: Kwargs = None,
    queue: QueueName = None,
    priority: Priority = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Add a schedule. Beat obeys it within a second; no restart is needed."""
    raw = {
        "task": task, "cron": cron, "every": every, "at": at, "tz": tz, "start": start, "queue": queue,
        "priority": priority, "args": _json("args", args), "kwargs": _json("kwargs", kwargs),
    }  # fmt: skip
    spec = read_spec(name, raw)
    installation = Installation.load()
    known = None if force else _known_tasks(installation)
    refuse_unknown(spec, installation.settings.queues, known)
    if known is not None:
        refuse_misfit(spec, known)
    with transaction(installation) as conn:
        made = store.add(conn, spec, who=operator())
        warnings = dangling(conn, spec)
    for warning in warnings:
        say(warning)
    if as_json:
        emit(shown(made), as_json=True)
        return
    say(f"Added {made.name!r}: {in_words(made)}. It runs next at:")
    emit(_coming(made, 3, as_json=False), as_json=False)


@app.command("set")
def change(
    name: Name,
    task: Annotated[str | None, typer.Option("--task", help="Another task.")] = None,
    cron: CronOption = None,
    every: Every = None,
    at: At = None,
    tz: Tz = None,
    start: Start = None,
    args: Args = None,
    kwargs: Kwargs = None,
    queue: QueueName = None,
    priority: Priority = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Change some of it; the rest stays, a pause too. A new rule does not fire for the past."""
    raw = {
        "task": task, "cron": cron, "every": every, "at": at, "tz": tz, "start": start, "queue": queue,
        "priority": priority, "args": _json("args", args), "kwargs": _json("kwargs", kwargs),
    }  # fmt: skip
    given = {field: value for field, value in raw.items() if value is not None}
    installation = Installation.load()

    known = None if force or not given.keys() & {"task", "args", "kwargs"} else _known_tasks(installation)

    def checked(current: Schedule) -> ScheduleSpec:
        spec = edited(current, given)
        refuse_unknown(spec, installation.settings.queues, None if task is None else known)
        if known is not None:
            refuse_misfit(spec, known)
        return spec

    with transaction(installation) as conn:
        after, what = store.edit(conn, name, checked, who=operator())
    changed = what is store.Put.CHANGED
    _tell(after, f"{'Changed' if changed else 'Nothing changed in'} {after.name!r}: {in_words(after)}.", as_json)


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Show all: when each runs next, whether it is paused or quarantined and why, and what became of its last time."""
    with transaction(Installation.load()) as conn:
        found = store.list_schedules(conn)
        last = occurrences.last_outcomes(conn)
    views = [shown(schedule) | {"last": _last(last.get(schedule.id))} for schedule in found]
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
    view = shown(schedule)
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
        say(f"It is {_explained(shown(schedule))}, and does not run.")


def _json(option: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as exc:
        raise DefinitionError(
            f"--{option} {text[:80] if text else ''!r} is not JSON: {exc}. The shell eats bare quotes: write "
            """--args '["weather"]' or --kwargs '{"full": true}'."""
        ) from None


def _known_tasks(installation: Installation) -> Mapping[str, Any]:
    from beatline.schedules.run_now import task_app

    known: Mapping[str, Any] = task_app(installation).tasks
    return known


def _tell(schedule: Schedule, text: str, as_json: bool) -> None:
    if as_json:
        emit(shown(schedule), as_json=True)
    else:
        say(text)


def _explained(view: Mapping[str, Any]) -> str:
    by = f" by {view['paused_by']}" if view["state"] == "paused" else ""
    return f"{view['state']}{by}" + (f": {view['reason']}" if view["reason"] else "")


def _coming(schedule: Schedule, count: int, *, as_json: bool) -> list[dict[str, Any]]:
    """The next slots: for programs in ISO 8601, for people under the name of the zone."""
    found, tz = next_slots(schedule, count), schedule.spec().trigger.tz
    local = zone(tz)
    if as_json:
        return [{"local": slot.astimezone(local).isoformat(), "utc": slot, "zone": tz} for slot in found]
    zones = {tz: local, "UTC": UTC}
    return [
        {name: f"{slot.astimezone(zone_):%a %Y-%m-%d %H:%M:%S %z}" for name, zone_ in zones.items()} for slot in found
    ]


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
