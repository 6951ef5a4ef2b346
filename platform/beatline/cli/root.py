"""The root of the command line: nouns loaded by name, errors in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from beatline.cli import COMMANDS, COMMANDS_PANEL, KINDS_PANEL, NOUNS
from beatline.cli.output import accept_any_text, say
from beatline.errors import BeatlineError
from beatline.outage import server_of

if TYPE_CHECKING:
    from beatline.families import Kind


class Root(TyperGroup):
    """Lists nouns without importing them, and imports the one that is typed."""

    def list_commands(self, ctx: object) -> list[str]:
        return [*NOUNS, *(point.name for point in metadata.entry_points(group=COMMANDS)), *_kinds()]

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | None:
        noun = NOUNS.get(cmd_name)
        if noun is not None:
            return TyperCommand(cmd_name, help=noun.help, rich_help_panel=noun.panel)
        brought = _brought(cmd_name)
        if brought is not None:
            first_line = (brought.__doc__ or "").partition("\n")[0]
            return TyperCommand(cmd_name, help=first_line, rich_help_panel=COMMANDS_PANEL)
        kind = _kinds().get(cmd_name)
        if kind is None:
            return None
        actions = (action.replace("_", "-") for action in (*kind.actions, *kind.fleet_actions))
        verbs = ", ".join(["add", "set", "list", "show", *actions, "unpark", "remove"])
        users = f", for {kind.task}" if kind.task else ""
        return TyperCommand(cmd_name, help=f"Each {kind.name}{users}: {verbs}.", rich_help_panel=KINDS_PANEL)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and args[0] not in NOUNS:  # what a misspelt noun is compared with
            self.commands = {name: TyperCommand(name) for name in self.list_commands(ctx)}
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load(name), rest


def load(noun: str) -> TyperCommand | TyperGroup:
    """The command of a noun, its module imported."""
    command: Any
    module = import_module(f"beatline.cli.{noun}") if noun in NOUNS else _brought(noun)
    if module is not None:
        if hasattr(module, "app"):
            command = get_group(module.app)
        else:
            single = typer.Typer(add_completion=False)
            single.command(noun, context_settings=getattr(module, "context_settings", None))(module.command)
            command = get_command(single)
    else:
        from beatline.cli.definitions import group_of

        command = get_group(group_of(_kinds()[noun]))
    command.name = noun
    return cast("TyperCommand | TyperGroup", command)


def _brought(noun: str) -> ModuleType | None:
    """The module of a noun that another package brings; the platform imports no package of tasks itself."""
    for point in metadata.entry_points(group=COMMANDS, name=noun):
        module: ModuleType = point.load()
        return module
    return None


def _kinds() -> Mapping[str, Kind]:
    from beatline.families import kinds

    return {kind.plural: kind for kind in kinds().values()}


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"beatline {metadata.version('beatline')}\n")
        raise typer.Exit


app: Final = typer.Typer(name="beatline", cls=Root, no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def beatline(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Durable schedules, leases, a run history and safe retries for Celery on Redis and PostgreSQL."""


def run(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 for what a person can mend, 2 for a wrong command."""
    accept_any_text()
    try:
        get_command(app).main(args, prog_name="beatline")
    except BeatlineError as exc:
        say(str(exc))
    except Exception as exc:
        sentence = _sentence(exc)
        if sentence is None:
            raise
        say(sentence)
    raise SystemExit(1)


def _sentence(exc: Exception) -> str | None:
    """What to tell a person of a server that does not answer; None for anything else."""
    from beatline.secrets import mask_urls

    server = server_of(exc)
    if server is None:
        return None
    said = str(getattr(exc, "orig", None) or exc).strip().splitlines()
    reason = mask_urls(said[0]).rstrip(".") if said else type(exc).__name__
    return f"{server.name} does not answer as it should: {reason}. Start or mend it, or correct {server.variable}."
