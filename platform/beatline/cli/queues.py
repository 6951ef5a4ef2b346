"""`beatline queues`: what waits where, who serves it, and how far history is behind."""

from __future__ import annotations

from dataclasses import asdict

from beatline.cli.output import AsJson, emit, say
from beatline.installation import Installation
from beatline.ledger.database import guarded


def command(as_json: AsJson = False) -> None:
    """Show how many messages wait, how old the oldest is, who serves each queue, and how far history is behind."""
    from beatline.app import create_app
    from beatline.queues.overview import overview

    installation = Installation.load()
    with guarded(installation.settings):
        found = overview(installation, create_app(installation.settings))
    if as_json:
        emit(asdict(found), as_json=True)
        return
    emit(found.queues, as_json=False)
    lag = found.ledger
    say(
        f"{found.unacknowledged} taken and not acknowledged; history is {lag.lag_s:.1f} s behind ({lag.events} events)."
    )
    for line in found.queues:
        if line.waiting and not line.workers:
            say(f"Nobody who answers serves {line.queue}: start `beatline worker -Q {line.queue}`.")
    if lag.lag_s > 10:
        say("History is far behind: see that `beatline recorder` runs and that PostgreSQL answers.")
