"""`beatline workers`: who works, and on what; and sending one home."""

from __future__ import annotations

from typing import Annotated

import typer

from beatline.cli.output import AsJson, emit, say
from beatline.errors import BeatlineError
from beatline.installation import Installation

app = typer.Typer(help="Workers: who works, and on what; drain one.")


@app.callback(invoke_without_command=True)
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show the workers that answer within a second, and those that only hold leases: busy, frozen, or just dead."""
    if ctx.invoked_subcommand is not None:
        return
    from beatline.app import create_app
    from beatline.queues.overview import ask_workers

    installation = Installation.load()
    found = ask_workers(installation, create_app(installation.settings))
    if as_json:
        emit(found, as_json=True)
        return
    columns = ("name", "queues", "pool", "slots", "leaked", "pid", "leases", "ended", "up_s", "answers")
    shown = tuple(name for name in ("paused", "draining") if any(getattr(worker, name) for worker in found))
    emit(
        found,
        as_json=False,
        columns=(*columns, *shown),
        empty="No worker answers: start one with `beatline worker -Q default`, or all with `beatline up`.",
    )


@app.command()
def drain(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Its name, or how the name begins.", show_default=False)
    ] = None,
    all_of: Annotated[
        str | None, typer.Option("--all-of", metavar="QUEUE", help="Every worker that serves this queue.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Let it stay, idle, until it is stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have a worker take nothing more, give back what it has not begun, finish what runs, and end.

    What watches it (`beatline up`, a container's restart policy, systemd) starts a new one: use --keep there.
    """
    from beatline.app import create_app
    from beatline.queues.draining import drain

    if (name is None) == (all_of is None):
        raise BeatlineError("Name a worker (`beatline workers` lists them), or give --all-of QUEUE.")
    installation = Installation.load()
    app = create_app(installation.settings)
    told = drain(installation, app, name or all_of or "", of_queue=all_of is not None, keep=keep)
    if as_json:
        emit(told, as_json=True)
        return
    then = "and stays, idle" if keep else "and ends when nothing runs there any more"
    for one in told:
        late = "" if one.answers else " It does not answer now: it drains once it is done with what it runs."
        say(f"{one.name} takes nothing more, {then}.{late}")
