"""`beatline queues`: what waits where, who serves it, how far history is behind; and pausing a queue everywhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from beatline.cli.output import AsJson, emit, operator, say
from beatline.installation import Installation
from beatline.ledger.database import guarded

if TYPE_CHECKING:
    from beatline.queues.pausing import Changed

app = typer.Typer(help="Queues: what waits, who serves it; pause and resume one everywhere.")

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="Its name.", show_default=False)]
COLUMNS = ("queue", "waiting", "oldest_s", "running", "delayed", "retrying", "workers", "slots", "purpose")


@app.callback(invoke_without_command=True)
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show how many messages wait, how old the oldest is, who serves each queue, and how far history is behind."""
    if ctx.invoked_subcommand is not None:
        return
    from beatline.app import create_app
    from beatline.queues.overview import overview

    installation = Installation.load()
    with guarded(installation.settings):
        found = overview(installation, create_app(installation.settings))
    if as_json:
        emit(asdict(found), as_json=True)
        return
    stopped = any(line.paused_since for line in found.queues)
    emit(found.queues, as_json=False, columns=(*COLUMNS, "paused_since") if stopped else COLUMNS)
    lag = found.ledger
    say(
        f"{found.unacknowledged} taken and not acknowledged; history is {lag.lag_s:.1f} s behind ({lag.events} events)."
    )
    for line in found.queues:
        if line.paused_since:
            why = f": {line.pause_reason}" if line.pause_reason else ""
            say(f"{line.queue} is paused by {line.paused_by}{why}; `beatline queues resume {line.queue}` ends that.")
        elif line.waiting and not line.workers:
            say(f"Nobody who answers serves {line.queue}: start `beatline worker -Q {line.queue}`.")
    if lag.lag_s > 10:
        say("History is far behind: see that `beatline recorder` runs and that PostgreSQL answers.")


@app.command()
def pause(
    queue: Name,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for who looks later.")] = None,
    as_json: AsJson = False,
) -> None:
    """Have no worker take anything from a queue until it is resumed. What runs goes on, what is sent to it waits."""
    from beatline.queues.pausing import pause

    installation = Installation.load()
    with guarded(installation.settings):
        changed = pause(installation, queue, who=operator(), reason=reason)
    _say(changed, as_json, f"The queue {queue} is paused: within two seconds no worker takes anything from it.")


@app.command()
def resume(queue: Name, as_json: AsJson = False) -> None:
    """Have workers take from a paused queue again."""
    from beatline.queues.pausing import resume

    installation = Installation.load()
    with guarded(installation.settings):
        changed = resume(installation, queue, who=operator())
    _say(changed, as_json, f"The queue {queue} is resumed: within two seconds its workers take from it again.")


def _say(changed: Changed, as_json: bool, sentence: str) -> None:
    if as_json:
        emit(changed, as_json=True)
        return
    say(sentence if changed.told else f"{sentence} Redis does not answer: a recorder tells the workers when it does.")
