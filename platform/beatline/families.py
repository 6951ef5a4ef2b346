"""Families of tasks: discovered by the entry-point group `beatline.tasks`, reached by nothing else.

A family is a queue, its task modules, and the kinds of definition its tasks work on. The command line and the API know
families only through this module, so a family of the user's own has the same standing as ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from beatline.errors import BeatlineError

if TYPE_CHECKING:
    from pydantic import BaseModel  # help and completion list kinds without paying for it

GROUP: Final = "beatline.tasks"


def load_object(path: str) -> Any:
    """What `package.module:name` names; imported when asked for, so that listing families stays cheap."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of definition, such as *source*: its pydantic model and what can be done with one.

    `model`, the actions and `removed` are import paths. The secret fields of a definition are the model's `SecretStr`
    fields. Actions return a `beatline.definitions.Finding`: those on one definition are called as
    `action(installation, definition, *, …)`, those on the fleet of all as `action(installation, *, …)`; what stands
    behind the star becomes arguments and options of the command line. `check` connects for real. `removed` is called as
    `removed(conn, installation, definition)` in the transaction that removes one, and takes along what hangs on it.
    `task` is the task that works on one definition, and takes its name or id; None if no single task does.
    """

    name: str
    plural: str
    model: str
    task: str | None = None
    actions: Mapping[str, str] = field(default_factory=dict[str, str])
    fleet_actions: Mapping[str, str] = field(default_factory=dict[str, str])
    removed: str | None = None

    def load_model(self) -> type[BaseModel]:
        """The pydantic model of the definition's spec."""
        model: type[BaseModel] = load_object(self.model)
        return model

    def load_action(self, action: str) -> Callable[..., Any]:
        """The function of an action. Raises BeatlineError if the kind has no such action."""
        known = {**self.fleet_actions, **self.actions}
        if action not in known:
            raise BeatlineError(f"A {self.name} cannot be asked to {action}; it knows: {', '.join(known)}.")
        found: Callable[..., Any] = load_object(known[action])
        return found

    def load_removed(self) -> Callable[..., None] | None:
        """What takes along what hangs on a removed definition."""
        found: Callable[..., None] | None = None if self.removed is None else load_object(self.removed)
        return found


@dataclass(frozen=True, slots=True)
class OwnSchedule:
    """A schedule that a family brings along; made at `beatline db upgrade`, owned by `beatline`."""

    name: str
    task: str
    cron: str
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A column of sealed bytes, for `beatline secrets rotate`: its table in Beatline's schema and the primary key.

    `bound_to` and `called` name a row's values in braces: "run:{id}". `shown` are columns that `called` needs beside
    the key.
    """

    table: str
    column: str
    key: tuple[str, ...]
    bound_to: str
    called: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """A queue, the task modules that feed it, and their kinds of definition.

    Tasks named `<name>.…` go to `queue`, or to the queue that `routes` has for them, unless the caller names another.
    """

    name: str
    queue: str
    modules: tuple[str, ...]
    kinds: tuple[Kind, ...] = ()
    schedules: tuple[OwnSchedule, ...] = ()
    sealed: tuple[Sealed, ...] = ()
    routes: Mapping[str, str] = field(default_factory=dict[str, str])


@cache
def families() -> Mapping[str, Family]:
    """Every installed family by name. Raises BeatlineError, naming the entry point, if one cannot be loaded."""
    found: dict[str, Family] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        try:
            family = point.load()
        except Exception as exc:
            raise BeatlineError(
                f"The task family {point.name!r} ({point.value}) cannot be loaded: {exc}. "
                "Mend or uninstall the package that brings it."
            ) from exc
        if not isinstance(family, Family):
            raise BeatlineError(f"The entry point {point.name!r} ({point.value}) is not a beatline.families.Family.")
        found[family.name] = family
    return found


def kinds() -> Mapping[str, Kind]:
    """Every kind of definition that an installed family brings, by name."""
    return {kind.name: kind for family in families().values() for kind in family.kinds}
