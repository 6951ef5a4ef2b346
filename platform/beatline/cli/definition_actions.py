"""Commands made from a kind's actions: what stands behind the star of a function becomes arguments and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from beatline.cli.output import AsJson, emit, say
from beatline.definitions import Definition, Finding, store
from beatline.installation import Installation
from beatline.ledger.database import guarded

if TYPE_CHECKING:
    from beatline.families import Kind

_NAME = Annotated[str, typer.Argument(metavar="NAME", help="Its name or id.", show_default=False)]


def action_on_one(kind: Kind, action: str) -> Callable[..., None]:
    """The command `beatline <plural> <action> NAME …`."""
    function = kind.load_action(action)

    def act(name: str, as_json: bool, **options: Any) -> None:
        installation = Installation.load()
        with guarded(installation.settings), installation.engine.begin() as conn:
            definition = store.get(conn, kind.name, name)
        finding: Finding = function(installation, definition, **options)
        _show(finding, as_json=as_json)
        if not finding.ok:
            _remind_of_parking(kind, definition)
            raise typer.Exit(1)

    return _command(act, function, [_parameter("name", _NAME)])


def action_on_all(kind: Kind, action: str) -> Callable[..., None]:
    """The command `beatline <plural> <action> …`."""
    function = kind.load_action(action)

    def act(as_json: bool, **options: Any) -> None:
        finding: Finding = function(Installation.load(), **options)
        _show(finding, as_json=as_json)
        if not finding.ok:
            raise typer.Exit(1)

    return _command(act, function, [])


def command_name(action: str) -> str:
    """How an action is typed: `reset_cursor` is reset-cursor."""
    return action.replace("_", "-")


def _show(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        emit(finding, as_json=True)
        return
    typer.echo(finding.text)
    if finding.details:
        emit(finding.details, as_json=False)
    if finding.rows:
        emit(finding.rows, as_json=False)


def _remind_of_parking(kind: Kind, definition: Definition) -> None:
    if definition.parked:
        say(f"It is parked: {definition.parked} `beatline {kind.plural} unpark {definition.name}` lets it run again.")


def _command(
    act: Callable[..., None], function: Callable[..., Any], own: list[inspect.Parameter]
) -> Callable[..., None]:
    asked = [p for p in inspect.signature(function).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    hints = _types(function, asked)
    given = [_asked_for(parameter, hints[parameter.name]) for parameter in asked]
    last = _parameter("as_json", AsJson, default=False)
    act.__doc__ = (function.__doc__ or "").partition("\n")[0]
    act.__signature__ = inspect.Signature([*own, *given, last])  # type: ignore[attr-defined]  # what typer reads
    return act


def _types(function: Callable[..., Any], asked: list[inspect.Parameter]) -> dict[str, Any]:
    """The types of some parameters; those of the others may name what is imported for the type checker only."""

    def bearer() -> None: ...

    bearer.__annotations__ = {parameter.name: parameter.annotation for parameter in asked}
    return get_type_hints(bearer, inspect.unwrap(function).__globals__, include_extras=True)


def _asked_for(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    kind, help_text = hint, ""
    if get_origin(hint) is Annotated:
        kind, *said = get_args(hint)
        help_text = next((text for text in said if isinstance(text, str)), "")
    if parameter.default is inspect.Parameter.empty:
        argument = typer.Argument(metavar=parameter.name.upper(), help=help_text, show_default=False)
        return _parameter(parameter.name, Annotated[kind, argument])
    shown = parameter.default not in (None, False, (), [])
    names = [f"--{parameter.name.replace('_', '-')}"]
    if parameter.name == "out":
        names.append("-o")
    return _parameter(
        parameter.name,
        Annotated[kind, typer.Option(*names, help=help_text, show_default=shown)],
        default=parameter.default,
    )


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
