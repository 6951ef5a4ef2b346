"""Arguments of a run against what its task takes, before the run is accepted: by signature, and by pydantic models.

A signature inside a canvas is checked when it is sent, not when it is made: the result of the task before it is put in
front only then. A task that this process knows only by its name is not checked, nor one made with `typing=False`.

The signature is that of what the task was made of: a decorator under `@app.task` that gives the body an argument of its own
takes what it says itself, whatever it wraps, as Celery has it.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from types import FunctionType, MethodType, NoneType
from typing import Any, Final, cast

from celery import Task
from pydantic import BaseModel, ValidationError

from beatline.errors import ArgumentsError

UNCHECKED: Final = "beatline_unchecked"
"""The option of a message whose arguments are not checked: what is fired by a schedule was, when that was accepted."""

_KEPT_AS: Final = "_beatline_takes"
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME: Final = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_SHOWN: Final = 5
"""How much that is wrong with one model is told."""

# Python 3.14 would evaluate annotations, which may name what is there only for a type checker.
if sys.version_info >= (3, 14):
    import annotationlib

    _UNREAD: Final[Mapping[str, Any]] = {"annotation_format": annotationlib.Format.FORWARDREF}
else:
    _UNREAD: Final[Mapping[str, Any]] = {}

Validate = Callable[[type[BaseModel], object], object]


@dataclass(frozen=True, slots=True)
class _Takes:
    """What a task takes: its signature, the models of its parameters, and how a value is validated with one."""

    signature: Signature
    models: Mapping[str, tuple[type[BaseModel], bool]]
    validate: Validate


def check_known(tasks: Mapping[str, Any], name: str, args: Any, kwargs: Any) -> None:
    """Raises ArgumentsError as `check` does; a task that is known by its name alone takes anything."""
    task = tasks.get(name)
    if task is not None:
        check(task, args, kwargs)


def check(task: Any, args: Any, kwargs: Any) -> None:
    """Raises ArgumentsError, which names task and argument and repeats no value, if the task cannot be called so."""
    args, kwargs = args or (), kwargs or {}
    if not getattr(task, "typing", True) or not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        return  # what is neither list nor mapping, Celery refuses
    takes = _takes(task)
    if takes is None:
        return
    positional, named = cast("Sequence[object]", args), cast("Mapping[str, object]", kwargs)
    try:
        bound = takes.signature.bind(*positional, **named)
    except TypeError as exc:
        problems = _misfits(takes.signature, positional, named) or [str(exc)]
        raise ArgumentsError(task.name, problems, _shape(takes.signature)) from None
    problems = [
        problem
        for name, (model, optional) in takes.models.items()
        if name in bound.arguments and not (optional and bound.arguments[name] is None)
        for problem in _refused(takes.validate, name, model, bound.arguments[name])
    ]
    if problems:
        raise ArgumentsError(task.name, problems, _shape(takes.signature))


def _takes(task: Any) -> _Takes | None:
    """What the task takes, looked up once; None if nobody can tell."""
    kept = cast("dict[str, Any]", vars(task))
    if _KEPT_AS not in kept:
        kept[_KEPT_AS] = _found(task)
    return cast("_Takes | None", kept[_KEPT_AS])


def _found(task: Any) -> _Takes | None:
    kind: Any = task.__class__  # not `type`: a task that is not made yet is a proxy
    celerys: Any = Task
    if not getattr(task, "_decorated", False) and kind.__call__ is not celerys.__call__:
        return None  # a class whose own `__call__` is given the arguments
    run: Any = inspect.getattr_static(kind, "run")  # what Celery and we put around it stands on the instance
    body: Any = run.__get__(task, kind) if hasattr(run, "__get__") else run
    validate = _validation(getattr(body, "__func__", body))
    if validate is not None:  # Celery's wrapper takes what the function in it takes, with all that is wrapped in that
        given = getattr(body, "__func__", body).__wrapped__
        body = MethodType(given, task) if isinstance(body, MethodType) else given
    try:
        signature = inspect.signature(body, follow_wrapped=validate is not None, **_UNREAD)
    except (ValueError, TypeError):  # of a builtin, for one
        return None
    function = getattr(body, "__func__", body)
    if validate is None and hasattr(function, "__wrapped__"):
        return _Takes(signature, {}, _validated)  # nobody can tell what a decorator makes of a value
    return _Takes(signature, _models(function, signature), validate or _validated)


def _models(function: Any, signature: Signature) -> dict[str, tuple[type[BaseModel], bool]]:
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001  # annotations may name anything, or what is there only for a type checker
        hints = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return {
        name: model
        for name, parameter in signature.parameters.items()
        if parameter.kind in (*_POSITIONAL, Parameter.KEYWORD_ONLY) and (model := _model(hints.get(name))) is not None
    }


def _model(annotation: object) -> tuple[type[BaseModel], bool] | None:
    """The model of `Model` and of `Model | None`, as Celery looks for it, and whether None may be given."""
    inner = [part for part in typing.get_args(annotation) if part is not NoneType]
    optional = len(inner) == 1 and NoneType in typing.get_args(annotation)
    if optional:
        annotation = inner[0]
    return (annotation, optional) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _validation(function: Any) -> Validate | None:
    """Celery's own validation where the task is made with `pydantic=True`: only that knows its strictness and context."""
    if isinstance(function, FunctionType) and "validate_argument" in function.__code__.co_freevars:
        return cast("Validate", inspect.getclosurevars(function).nonlocals["validate_argument"])
    return None


def _validated(model: type[BaseModel], value: object) -> object:
    return model.model_validate(value)


def _refused(validate: Validate, name: str, model: type[BaseModel], value: object) -> list[str]:
    try:
        validate(model, value)
    except ValidationError as exc:
        said = exc.errors(include_url=False, include_input=False, include_context=False)
        return [f"{'.'.join((name, *(str(part) for part in one['loc'])))}: {one['msg']}" for one in said[:_SHOWN]]
    return []


def _misfits(signature: Signature, args: Sequence[object], kwargs: Mapping[str, object]) -> list[str]:
    parameters = signature.parameters.values()
    places = [one for one in parameters if one.kind in _POSITIONAL]
    given = {one.name for one in places[: len(args)]}
    problems: list[str] = []
    if len(args) > len(places) and not any(one.kind is Parameter.VAR_POSITIONAL for one in parameters):
        problems.append(f"{len(args)} positional arguments are given and {len(places)} are taken")
    if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        named = {one.name for one in parameters if one.kind in _BY_NAME}
        problems += [f"there is no argument {name!r:.80}" for name in kwargs if name not in named]
    problems += [
        f"argument {one.name!r} is given twice"
        for one in places
        if one.kind is Parameter.POSITIONAL_OR_KEYWORD and one.name in given and one.name in kwargs
    ]
    problems += [
        f"argument {one.name!r} is missing"
        for one in parameters
        if one.default is Parameter.empty
        and one.kind in (*_POSITIONAL, Parameter.KEYWORD_ONLY)
        and one.name not in given
        and (one.name not in kwargs or one.kind is Parameter.POSITIONAL_ONLY)
    ]
    return problems


def _shape(signature: Signature) -> str:
    """The signature without annotations and values of defaults."""
    plain = [
        one.replace(annotation=Parameter.empty, default=one.default if one.default is Parameter.empty else _SOMETHING)
        for one in signature.parameters.values()
    ]
    return str(Signature(plain))


class _Something:
    def __repr__(self) -> str:
        return "…"


_SOMETHING: Final = _Something()
