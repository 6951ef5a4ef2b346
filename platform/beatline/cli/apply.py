"""`beatline apply FILE`: definitions and schedules as a file says, the difference first."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from beatline.cli.definitions import transaction
from beatline.cli.output import AsJson, emit, operator, say, show, visible
from beatline.definitions.apply import Step, apply
from beatline.definitions.file import Contents, read_file
from beatline.errors import DefinitionError
from beatline.families import kinds
from beatline.installation import Installation
from beatline.schedules.edit import refuse_misfit
from beatline.settings import read_variable

if TYPE_CHECKING:
    from beatline.families import Kind

_SIGNS: Final = {"add": "+", "change": "~", "unchanged": "="}


def command(
    file: Annotated[Path, typer.Argument(help=r"A TOML file with \[sources.NAME] and \[schedules.NAME].")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring definitions and schedules to what a TOML file says; the difference is shown first.

    All is checked before anything is written, and written in one transaction. What the file does not name stays. A
    secret is written as text, as {env = "NAME"} or as {file = "path"}.
    """
    known = kinds()
    contents = read_file(file, known.values(), read_variable)
    installation = Installation.load()
    _refuse_misfits(installation, contents)
    steps = _try(installation, contents, known)
    to_do = [step for step in steps if step.action != "unchanged"]
    if not as_json:
        _print(steps)
    asked = bool(to_do) and not dry_run
    if asked and not yes:
        _ask(len(to_do))
    if asked:
        with transaction(installation) as conn:
            done = apply(conn, contents, known, lambda: installation.keyring, who=operator())
            if _shape(done) != _shape(steps):
                raise DefinitionError("Something was changed meanwhile, so nothing was applied: run it again.")
    if as_json:
        emit({"applied": asked, "steps": steps}, as_json=True)
    else:
        _print_end(steps, applied=asked, dry_run=dry_run)


def _refuse_misfits(installation: Installation, contents: Contents) -> None:
    if contents.schedules:
        from beatline.schedules.run_now import task_app

        known: Mapping[str, Any] = task_app(installation).tasks
        for spec in contents.schedules:
            refuse_misfit(spec, known)


class _TakenBack(Exception):  # no error: it ends a transaction that was only a trial
    pass


def _try(installation: Installation, contents: Contents, known: Mapping[str, Kind]) -> list[Step]:
    """What applying takes, found by doing it and taking it back: so that nothing can fail later that could fail now."""
    steps: list[Step] = []
    with suppress(_TakenBack), transaction(installation) as conn:
        steps = apply(conn, contents, known, lambda: installation.keyring, who=operator())
        raise _TakenBack
    return steps


def _shape(steps: list[Step]) -> list[object]:
    # Without the new values: a new interval starts now, which is another moment each time.
    return [(s.kind, s.name, s.action, [(c.field, c.before) for c in s.changes]) for s in steps]


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        raise DefinitionError(f"Nothing was applied: {count} differ. Give --yes where nobody can be asked.")
    if not typer.confirm("Apply?", err=True):
        raise typer.Exit(1)


def _print(steps: list[Step]) -> None:
    for step in steps:
        typer.echo(visible(f"{_SIGNS[step.action]} {step.kind} {step.name}"))
        for change in step.changes:
            before = "" if step.action == "add" else f"{show(change.before) or 'unset'} → "
            typer.echo(f"    {visible(change.field)}: {before}{show(change.after) or 'unset'}")


def _print_end(steps: list[Step], *, applied: bool, dry_run: bool) -> None:
    counts = Counter(step.action for step in steps)
    told = f"{counts['add']} to add, {counts['change']} to change, {counts['unchanged']} unchanged"
    if applied:
        say(f"Applied: {counts['add']} added, {counts['change']} changed, {counts['unchanged']} unchanged.")
    elif dry_run and (counts["add"] or counts["change"]):
        say(f"Nothing was written: {told}.")
    else:
        say(f"Nothing to do: {counts['unchanged']} unchanged.")
