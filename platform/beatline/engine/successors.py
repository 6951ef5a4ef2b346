"""Ids for what a run calls when it ends: they follow from the run and the place, so calling it again is calling it once.

Celery draws the id of a link when it publishes it. A run whose worker is killed between that and its end is executed
again, and would call other runs each time. With an id of its own each successor is claimed once, whoever publishes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from beatline.names import successor_run_id

CALLBACKS: Final = "callbacks"
ERRBACKS: Final = "errbacks"
CHORD: Final = "chord"
_OPTION: Final = {CALLBACKS: "link", ERRBACKS: "link_error"}

Choose = Callable[[str, str | None], str]
"""The id of a signature: from its place and the id it has."""


def name_successors(embed: Mapping[str, Any], run_id: str, former: str | None = None) -> dict[str, Any]:
    """The last part of a message's body, with an id on every link of its run that has none. Changes no signature given.

    Ids that were derived from the `former` run are derived anew: a retry that people ask for calls its own.
    """
    named = dict(embed)
    for kind in (CALLBACKS, ERRBACKS):
        if named.get(kind):
            named[kind] = _links(named[kind], run_id, kind, former)
    if named.get(CHORD):
        named[CHORD] = _with_own_errbacks(named[CHORD])
    return named


def _links(signatures: Sequence[Any], run_id: str, kind: str, former: str | None) -> list[Any]:
    def choose(place: str, given: str | None) -> str:
        ours = given is None or (former is not None and given == successor_run_id(former, place))
        return successor_run_id(run_id, place) if ours else cast("str", given)

    return [_named(one, f"{_OPTION[kind]}.{number}", choose) for number, one in enumerate(signatures)]


def _named(signature: Any, place: str, choose: Choose, inherited: str | None = None) -> Any:
    """A signature with an id on each task and group in it; `inherited` is the one that Celery would pass on to it."""
    if not isinstance(signature, Mapping):
        return cast("object", signature)
    told = cast("Mapping[str, Any]", signature)
    options: dict[str, Any] = {**(told.get("options") or {})}
    kwargs: dict[str, Any] = {**(told.get("kwargs") or {})}
    own: str | None = options.get("task_id") or inherited
    match told.get("subtask_type"):
        case "chain":  # its id is its last task's
            tasks = list(kwargs.get("tasks") or ())
            kwargs["tasks"] = [
                _named(task, f"{place}.{number}", choose, own if number == len(tasks) - 1 else None)
                for number, task in enumerate(tasks)
            ]
        case "group":
            options["task_id"] = choose(place, own)
            kwargs["tasks"] = _members(kwargs.get("tasks"), place, choose)
        case "chord":  # its id is its header's, and its body's if that has none
            options["task_id"] = choose(f"{place}.header", own)
            kwargs["header"] = _members(kwargs.get("header"), f"{place}.header", choose)
            kwargs["body"] = _named(kwargs.get("body"), f"{place}.body", choose, own)
        case _:
            options["task_id"] = choose(place, own)
    return {**told, "options": options, "kwargs": kwargs}


def _members(tasks: Any, place: str, choose: Choose) -> list[Any]:
    listed: Any = cast("Any", tasks)["kwargs"]["tasks"] if isinstance(tasks, Mapping) else tasks
    return [_named(task, f"{place}.{number}", choose) for number, task in enumerate(listed or ())]


def _with_own_errbacks(body: Any) -> Any:
    """A chord's body with ids on its errbacks, which Celery calls out of the header's messages if a part fails."""
    if not isinstance(body, Mapping):
        return cast("object", body)
    told = cast("Mapping[str, Any]", body)
    options: dict[str, Any] = {**(told.get("options") or {})}
    run_id, errbacks = options.get("task_id"), options.get("link_error")
    if run_id and errbacks:
        listed: Any = cast("Any", errbacks) if isinstance(errbacks, list | tuple) else [errbacks]
        options["link_error"] = _links(listed, str(run_id), ERRBACKS, None)
    return {**told, "options": options}
