"""Makes a Celery app a Beatline app: one of our own, or one that exists, without moving a task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final, cast

from celery import Celery
from celery.utils.imports import cwd_in_path

from beatline.configuration import GUARANTEED, connections, defaults
from beatline.engine.amqp import BeatlineAMQP, unchecked
from beatline.engine.cancelling import Cancelling
from beatline.engine.doubts import Doubting
from beatline.engine.duty import Duty
from beatline.engine.replacing import Replacing
from beatline.engine.results import KeptResult
from beatline.engine.sending import hasten
from beatline.engine.stopping import Stopping
from beatline.engine.taking import Taking
from beatline.engine.worker import CONF_KEY, Leases, WorkerLogging, connect_signals
from beatline.errors import AttachError, SettingsError
from beatline.families import families
from beatline.installation import Installation
from beatline.queues.routing import FamilyRoutes
from beatline.settings import Settings, align_celery_variables
from beatline.task.base import Task

_OURS: Final = ("broker_url", "result_backend", "broker_transport", "task_queues", "task_default_queue")
"""What comes from Beatline's settings: an attached project that configured another value is refused by name."""


def create_app(settings: Settings) -> Celery:
    """A Beatline app with every installed family and the modules of BEATLINE_TASK_MODULES.

    Raises SettingsError for a module that cannot be found, and what `attach` raises.
    """
    missing = [module for module in settings.task_modules if not _findable(module)]
    if missing:
        raise SettingsError(
            [f"BEATLINE_TASK_MODULES: there is no module {m!r} on {os.getcwd()} or PYTHONPATH." for m in missing]
        )
    app = Celery("beatline", set_as_current=True)
    modules = [module for family in families().values() for module in family.modules]
    app.conf.imports = (*modules, *settings.task_modules)
    return attach(app, settings)


def attach(app: Celery, settings: Settings | None = None) -> Celery:
    """Give an existing app Beatline's queues, leases, history and scheduler, and return it.

    Its tasks stay where they are: `celery -A theirproject worker|beat|flower` goes on working. What the project
    configured is kept; what contradicts a guarantee, or names another broker than Beatline's settings do, raises
    AttachError with the setting's name. Call it before the first task is sent. Settings are read from the environment
    if none are given.
    """
    installation = Installation(settings or Settings.load())
    align_celery_variables(installation.settings)
    conf: Any = app.conf
    chosen = _chosen(app)
    ours: dict[str, Any] = connections(installation.settings) | {
        "result_expires": installation.settings.result_expires_s
    }
    _refuse_contradictions(chosen, ours)

    conf.update({name: value for name, value in defaults().items() if name not in chosen})
    conf.update(GUARANTEED)
    conf.update({name: value for name, value in ours.items() if name not in chosen or name not in defaults()})
    conf.broker_transport_options = _merged(chosen.get("broker_transport_options"), ours["broker_transport_options"])
    conf[CONF_KEY] = installation
    routes = chosen.get("task_routes") or ()
    conf.task_routes = [*(routes if isinstance(routes, list | tuple) else [routes]), FamilyRoutes(families())]

    # Cached properties of Celery's, which its stubs declare read-only: what is set here is what Celery then uses.
    seat: Any = app
    seat.amqp = BeatlineAMQP(app)
    seat.AsyncResult = app.subclass_with_self(KeptResult, name="AsyncResult")
    seat.log = WorkerLogging(app)
    seat.task_cls = Task
    seat.type_checker = unchecked  # of a function's arguments: BeatlineAMQP checks those of every task, when it is sent
    hasten(app)
    seat.steps["consumer"].update((Leases, Doubting, Duty, Replacing, Stopping, Cancelling, Taking))
    connect_signals()
    return app


def _findable(module: str) -> bool:
    """Whether Celery's loader, which also looks into the working directory, will find it."""
    try:
        with cwd_in_path():
            return find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def _chosen(app: Celery) -> Mapping[str, Any]:
    """What the project itself configured, defaults left out."""
    app.conf.get("imports")  # a configuration is read when a value is first asked for
    settings: Any = app.conf
    chosen: dict[str, Any] = {}
    for layer in reversed(settings.maps[:-1]):
        chosen |= layer
    return chosen


def _refuse_contradictions(chosen: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    problems = [
        f"{name} = {chosen[name]!r}: Beatline's guarantees need {value!r}; take the line out"
        for name, value in GUARANTEED.items()
        if name in chosen and not _same(chosen[name], value)
    ]
    problems += [
        f"{name} is configured in the project and differs from Beatline's settings; take the line out, or set "
        f"{variable} to the same"
        for name, variable in (("broker_url", "BEATLINE_REDIS_URL"), ("result_backend", "BEATLINE_RESULT_URL"))
        if chosen.get(name) and chosen[name] != ours[name]
    ]
    if chosen.get("broker_transport"):
        problems.append("broker_transport: Beatline brings its own transport; take the line out")
    if chosen.get("task_default_queue") not in (None, "celery", ours["task_default_queue"]):
        problems.append("task_default_queue: tasks without a route go to `default`; use task_routes for others")
    declared = _queue_names(chosen.get("task_queues") or ())
    missing = declared - {queue.name for queue in ours["task_queues"]} - {"celery"}
    if missing:
        problems.append(f"task_queues: declare {', '.join(sorted(missing))} in BEATLINE_QUEUES")
    if problems:
        raise AttachError("This Celery app cannot be attached as it is configured:\n- " + "\n- ".join(problems))


def _queue_names(declared: Any) -> set[str]:
    """The names of queues, declared as kombu queues, as names, or as a mapping of names to options."""
    return {str(getattr(queue, "name", queue)) for queue in declared}


def _merged(chosen: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> dict[str, Any]:
    return {**(chosen or {}), **ours}


def _same(chosen: Any, ours: Any) -> bool:
    if isinstance(ours, list):
        allowed: list[str] = [str(item) for item in cast("list[object]", ours)]
        return {str(item).removeprefix("application/") for item in chosen} <= set(allowed)
    return bool(chosen == ours)
