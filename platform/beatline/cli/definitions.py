"""`beatline sources …`: the same verbs for every kind of definition that a family brings."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from sqlalchemy import Connection

from beatline.cli.definition_actions import action_on_all, action_on_one, command_name
from beatline.cli.definition_options import Given, with_fields
from beatline.cli.output import AsJson, emit, operator, say
from beatline.definitions import Definition, store
from beatline.definitions.fields import fields_of
from beatline.definitions.raw import drop, laid_over
from beatline.definitions.specs import check, spec_to_edit
from beatline.installation import Installation
from beatline.ledger.database import guarded
from beatline.schedules import store as schedule_store

if TYPE_CHECKING:
    from beatline.families import Kind

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name or id.", show_default=False)]
NewName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Letters, digits, dot, dash and underscore; at most 100.", show_default=False),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="PATH", help="Back to the default.")]


def group_of(kind: Kind) -> typer.Typer:
    """The commands of one kind."""
    app = typer.Typer(no_args_is_help=True, help=said_of(kind))
    fields = fields_of(kind.load_model())
    app.command("add")(with_fields(_add(kind), fields))
    app.command("set")(with_fields(_set(kind), fields))
    app.command("list")(_list(kind))
    app.command("show")(_show(kind))
    for action in kind.actions:
        app.command(command_name(action))(action_on_one(kind, action))
    for action in kind.fleet_actions:
        app.command(command_name(action))(action_on_all(kind, action))
    app.command("unpark")(_unpark(kind))
    app.command("remove")(_remove(kind))
    return app


def said_of(kind: Kind) -> str:
    """A kind in one line of help."""
    return f"Each {kind.name}, for the task {kind.task}." if kind.task else f"Each {kind.name}."


@contextmanager
def transaction(installation: Installation) -> Generator[Connection]:
    """A transaction whose failures explain themselves."""
    with guarded(installation.settings), installation.engine.begin() as conn:
        yield conn


def _add(kind: Kind) -> Callable[..., None]:
    def add(given: Given, name: NewName, as_json: AsJson = False) -> None:
        """Add one. A secret is read from a variable or a file, so that it stands in no shell history."""
        checked = check(kind, name, given)
        installation = Installation.load()
        with transaction(installation) as conn:
            made = store.add(conn, kind.name, name, checked, lambda: installation.keyring, who=operator())
        _tell(kind, made, "Added", as_json)

    return add


def _set(kind: Kind) -> Callable[..., None]:
    def change(given: Given, name: Name, unset: Unset = None, as_json: AsJson = False) -> None:
        """Change some fields; the others stay as they are."""
        installation = Installation.load()
        with transaction(installation) as conn:
            current = store.get(conn, kind.name, name)
            raw, merge = spec_to_edit(current, lambda: installation.keyring)
            for path in unset or ():
                drop(raw, path.split("."))
            checked = check(kind, current.name, merge(laid_over(raw, given)))
            after = store.update_spec(conn, current, checked, lambda: installation.keyring, who=operator())
        _tell(kind, after, "Changed" if after.version != current.version else "Nothing changed in", as_json)

    return change


def _list(kind: Kind) -> Callable[..., None]:
    def list_all(as_json: AsJson = False) -> None:
        """Show all, by name."""
        with transaction(Installation.load()) as conn:
            found = store.list_definitions(conn, kind.name)
        if as_json:
            emit([_public(definition) for definition in found], as_json=True)
            return
        rows = [
            {
                "name": definition.name,
                "state": f"parked: {definition.parked}" if definition.parked else "ready",
                "version": definition.version,
                "owner": definition.owner,
                "changed": definition.updated_at,
            }
            for definition in found
        ]
        emit(rows, as_json=False, empty=f"There is no {kind.name} yet: `beatline {kind.plural} add --help`.")

    return list_all


def _show(kind: Kind) -> Callable[..., None]:
    def show(name: Name, as_json: AsJson = False) -> None:
        """Show one; secrets are masked."""
        with transaction(Installation.load()) as conn:
            definition = store.get(conn, kind.name, name)
        public = _public(definition)
        if not as_json:
            public |= {f"{part}.{path}": value for part in ("spec", "state") for path, value in _flat(public.pop(part))}
        emit(public, as_json=as_json)

    return show


def _unpark(kind: Kind) -> Callable[..., None]:
    def unpark(name: Name) -> None:
        """Let one run again that was parked."""
        with transaction(Installation.load()) as conn:
            definition = store.get(conn, kind.name, name)
            done = store.unpark(conn, definition, who=operator())
        say(f"{definition.called} {'runs again.' if done else 'was not parked.'}")

    return unpark


def _remove(kind: Kind) -> Callable[..., None]:
    def remove(name: Name, yes: Yes = False) -> None:
        """Remove one, with its secrets and its cursor; rows in datasets stay."""
        installation = Installation.load()
        with transaction(installation) as conn:
            definition = store.get(conn, kind.name, name)
            users = _schedules_of(conn, kind, definition)
        if users:
            say(f"Scheduled by {', '.join(users)}.")
        if not yes and not typer.confirm(f"Remove {kind.name} {definition.name!r}?", err=True):
            raise typer.Exit(1)
        removed = kind.load_removed()
        with transaction(installation) as conn:
            if removed is not None:
                removed(conn, installation, definition)
            store.remove(conn, kind.name, str(definition.id), who=operator())
            left = _schedules_of(conn, kind, definition)
        say(f"Removed {kind.name} {definition.name!r}.")
        if left:
            say(f"What schedules it stays, and its runs will fail: `beatline schedules remove {left[0]}` ends them.")

    return remove


def _schedules_of(conn: Connection, kind: Kind, definition: Definition) -> list[str]:
    if kind.task is None:
        return []
    names = {definition.name, str(definition.id)}
    return [
        schedule.name
        for schedule in schedule_store.list_schedules(conn)
        if schedule.task == kind.task
        and {value for value in (*schedule.args[:1], *schedule.kwargs.values()) if isinstance(value, str)} & names
    ]


def _tell(kind: Kind, definition: Definition, what: str, as_json: bool) -> None:
    if as_json:
        emit(_public(definition), as_json=True)
        return
    hint = f" `beatline {kind.plural} check {definition.name}` tries it." if "check" in kind.actions else ""
    say(f"{what} {kind.name} {definition.name!r}, version {definition.version}.{hint}")


def _public(definition: Definition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "id": definition.id,
        "version": definition.version,
        "owner": definition.owner,
        "parked": definition.parked,
        "created_at": definition.created_at,
        "updated_at": definition.updated_at,
        "spec": definition.spec,
        "state": definition.state,
    }


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in cast("Mapping[str, Any]", value).items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    elif path:
        yield path, value
