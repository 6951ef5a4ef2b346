"""What is looked at before a schedule is added or changed: its new spec, its queue, its task, what its arguments name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from beatline.errors import ArgumentsError, DefinitionError, UnknownQueueError
from beatline.families import kinds
from beatline.queues.routing import known_queues
from beatline.schedules.model import Schedule, ScheduleSpec, read_spec
from beatline.task.arguments import check_known

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KINDS: Final = ("cron", "every", "at", "trigger")
_PARTS: Final = (*_KINDS, "tz", "start")


def edited(current: Schedule, given: Mapping[str, Any]) -> ScheduleSpec:
    """The schedule's spec with the fields that are given; None puts one back to its default. Raises DefinitionError.

    A new cron, every or at keeps the time zone, unless `tz` is given too.
    """
    kept: dict[str, Any] = {
        "task": current.task, "args": current.args, "kwargs": current.kwargs, "queue": current.queue,
        "priority": current.priority,
    }  # fmt: skip
    when = {name: given[name] for name in _PARTS if given.get(name) is not None}
    rest = {name: value for name, value in given.items() if name not in _PARTS}
    if not any(name in when for name in _KINDS):
        when = {"trigger": current.trigger | when}
    elif "trigger" not in when and current.trigger.get("tz"):
        when = {"tz": current.trigger["tz"]} | when
    return read_spec(current.name, kept | rest | when)


def refuse_unknown(spec: ScheduleSpec, queues: Iterable[str], tasks: Iterable[str] | None) -> None:
    """Raises UnknownQueueError or DefinitionError if its queue, or its task, is none of these; None: any task goes.

    `queues` are those that a project declares beside Beatline's.
    """
    known = known_queues(queues)
    if spec.queue is not None and spec.queue not in known:
        raise UnknownQueueError(spec.queue, sorted(known))
    if tasks is None:
        return
    ours = [task for task in tasks if not task.startswith("celery.")]
    if spec.task not in ours:
        close = " or ".join(get_close_matches(spec.task, ours, n=3))
        raise DefinitionError(
            f"No task {spec.task!r} is known here{f'; did you mean {close}?' if close else '.'} Name the "
            "module of your own tasks in BEATLINE_TASK_MODULES, or force it (--force, or force=true) if only workers know it."
        )


def refuse_misfit(spec: ScheduleSpec, tasks: Mapping[str, Any]) -> None:
    """Raises DefinitionError, which names task and argument, if its task is known here and does not take its arguments."""
    try:
        check_known(tasks, spec.task, spec.args, spec.kwargs)
    except ArgumentsError as exc:
        raise DefinitionError(f"Schedule {spec.name!r}: {exc}") from None


def dangling(conn: Connection, spec: ScheduleSpec) -> list[str]:
    """One sentence for each definition that its arguments name and that does not exist yet."""
    from beatline.definitions import store as definitions

    said: list[str] = []
    for kind in kinds().values():
        given: Any = spec.args[0] if spec.args else spec.kwargs.get(f"{kind.name}_id")
        if kind.task == spec.task and isinstance(given, str) and definitions.find(conn, kind.name, given) is None:
            said.append(
                f"There is no {kind.name} {given!r} yet: its runs fail until `beatline {kind.plural} add {given}`."
            )
    return said
