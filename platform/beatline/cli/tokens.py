"""`beatline tokens`: who may use the admin API."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from beatline.api import tokens
from beatline.cli.definitions import Yes, transaction
from beatline.cli.output import AsJson, emit, operator, say
from beatline.installation import Installation

app = typer.Typer(no_args_is_help=True, help="Tokens: who may use the admin API.")

_COLUMNS = ("name", "prefix", "state", "expires_at", "last_used_at", "created_by")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: the audit says so.", show_default=False)],
    expires: Annotated[str, typer.Option("--expires", help="How long it lives: 12h, 30d, 1w.")] = "90d",
    as_json: AsJson = False,
) -> None:
    """Make a token and show it, this once: only its hash is kept."""
    life = tokens.read_life(expires)
    with transaction(Installation.load()) as conn:
        made, text = tokens.add(conn, name, who=operator(), life=life)
    if as_json:
        emit(asdict(made) | {"token": text}, as_json=True)
        return
    typer.echo(text)
    say(f"Keep it as you keep passwords: it is not shown again. It expires on {made.expires_at.astimezone():%Y-%m-%d}.")
    say("Use: curl -H 'Authorization: Bearer …' http://127.0.0.1:8000/admin/celery/workers")


@app.command("list")
def list_all(as_json: AsJson = False) -> None:
    """Show all, expired ones too; of each token its prefix."""
    with transaction(Installation.load()) as conn:
        found = tokens.list_tokens(conn)
    rows = [asdict(token) | {"state": "expired" if token.expired else "valid"} for token in found]
    emit(rows, as_json=as_json, columns=_COLUMNS, empty="There is no token yet: `beatline tokens add NAME`.")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name or prefix.", show_default=False)],
    yes: Yes = False,
) -> None:
    """Refuse a token from now on."""
    if not yes and not typer.confirm(f"Remove the token {name!r}?", err=True):
        raise typer.Exit(1)
    with transaction(Installation.load()) as conn:
        gone = tokens.remove(conn, name, who=operator())
    say(f"Removed {gone.name!r}: it is refused from now on.")
