"""Options of the command line made from a kind's model: `--url`, `--cursor.field`, `--auth.token env:NAME`."""

from __future__ import annotations

import inspect
import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from beatline.definitions.fields import Field, Shape
from beatline.definitions.raw import assignment, laid_over, put, secret_of
from beatline.errors import DefinitionError
from beatline.settings import read_variable

_TAKEN: Final = frozenset({"set", "unset", "spec", "json", "help"})
_PANEL: Final = "Fields"
_REFERENCE: Final = "env:NAME|file:PATH|-"

Given = dict[str, Any]


def with_fields(command: Callable[..., None], fields: list[Field]) -> Callable[..., None]:
    """The command with an option for each field; it gets what was given as `given`, a nested mapping.

    `command` is called with its own parameters by name; its parameter `given` does not become an option.
    """
    options = [_option(field) for field in fields if field.dotted not in _TAKEN]
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
    extra = [
        _parameter("spec", Path | None, "--spec", help="A TOML or JSON file with the fields; options go before it."),
        _parameter(
            "assignments", list[str] | None, "--set", metavar="PATH=VALUE", help="Any field, the value in JSON."
        ),
    ]

    def run(**values: Any) -> None:
        given: Given = _read_spec(values.pop("spec"))
        for text in values.pop("assignments") or ():
            given = laid_over(given, _nested(*assignment(text)))
        for parameter, read in options:
            value = values.pop(parameter.name)
            if value is not None and value != []:
                given = laid_over(given, _nested(*read(value)))
        command(**values, given=given)

    parameters = [*own, *(parameter for parameter, _ in options), *extra]
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    return run


Reader = Callable[[Any], tuple[tuple[str, ...], Any]]


def _option(field: Field) -> tuple[inspect.Parameter, Reader]:
    name = "--" + field.dotted.replace("_", "-")
    key = "field_" + "_".join(field.path)
    match field.shape:
        case Shape.SECRET:
            return _parameter(key, str | None, name, metavar=_REFERENCE, help=field.help), _secret_reader(field, name)
        case Shape.LIST:
            metavar = f"{field.metavar},…"
            return _parameter(key, list[str] | None, name, metavar=metavar, help=field.help), _list_reader(field)
        case Shape.MAP:
            metavar = "NAME=VALUE"
            return _parameter(key, list[str] | None, name, metavar=metavar, help=field.help), _map_reader(field, name)
        case Shape.TEXT:
            option = _parameter(key, str | None, name, metavar=field.metavar, help=field.help)
            return option, lambda value: (field.path, value)


def _parameter(name: str, kind: Any, *declarations: str, help: str, metavar: str | None = None) -> inspect.Parameter:
    panel = _PANEL if name.startswith("field_") else None
    option = typer.Option(*declarations, help=help, metavar=metavar, show_default=False, rich_help_panel=panel)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _list_reader(field: Field) -> Reader:
    def read(values: list[str]) -> tuple[tuple[str, ...], Any]:
        return field.path, [part.strip() for value in values for part in value.split(",") if part.strip()]

    return read


def _map_reader(field: Field, option: str) -> Reader:
    def read(values: list[str]) -> tuple[tuple[str, ...], Any]:
        pairs = [value.partition("=") for value in values]
        if any(not sign or not name for name, sign, _ in pairs):
            raise DefinitionError(f"{option} takes NAME=VALUE, and may be given several times.")
        return field.path, {name.strip(): value for name, _, value in pairs}

    return read


def _secret_reader(field: Field, option: str) -> Reader:
    def read(reference: str) -> tuple[tuple[str, ...], Any]:
        if reference == "-":
            typed = getpass(f"{field.dotted}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
            return field.path, typed
        source, colon, where = reference.partition(":")
        if not colon or not where or source not in ("env", "file"):
            raise DefinitionError(
                f"{option} takes env:NAME, file:PATH, or - to be asked; a secret itself would stay in the shell's history."
            )
        return field.path, secret_of(field.dotted, source, where, read_variable, Path.cwd())

    return read


def _read_spec(path: Path | None) -> Given:
    if path is None:
        return {}
    try:
        text = path.read_text("utf-8")
        read: object = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as exc:
        raise DefinitionError(f"The file {path} cannot be read: {exc.strerror}.") from None
    except ValueError as exc:
        raise DefinitionError(f"{path} is not {'JSON' if path.suffix == '.json' else 'TOML'}: {exc}.") from None
    if not isinstance(read, dict):
        raise DefinitionError(f"{path} holds no object: write the fields of one definition.")
    return cast("Given", read)


def _nested(path: Sequence[str], value: Any) -> Mapping[str, Any]:
    result: Given = {}
    put(result, path, value)
    return result
