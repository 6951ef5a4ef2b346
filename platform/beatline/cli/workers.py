"""`beatline workers`: who works, and on what."""

from __future__ import annotations

from beatline.cli.output import AsJson, emit
from beatline.installation import Installation


def command(as_json: AsJson = False) -> None:
    """Show the workers that answer within a second, and those that only hold leases: busy, frozen, or just dead."""
    from beatline.app import create_app
    from beatline.queues.overview import ask_workers

    installation = Installation.load()
    found = ask_workers(installation, create_app(installation.settings))
    if as_json:
        emit(found, as_json=True)
        return
    emit(
        found,
        as_json=False,
        columns=("name", "queues", "pool", "slots", "leaked", "pid", "leases", "ended", "up_s", "answers"),
        empty="No worker answers: start one with `beatline worker -Q default`, or all with `beatline up`.",
    )
