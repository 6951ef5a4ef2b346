"""`beatline health`: whether the process beside it does its duty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beatline.cli.output import AsJson, emit
from beatline.errors import BeatlineError
from beatline.health import SILENT_S, of_duty, of_page
from beatline.settings import Settings


def command(
    what: Annotated[str, typer.Argument(help="beat, worker or recorder; or the URL of a page that must answer 200.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where the processes leave their signs, instead of BEATLINE_HEALTH_FOLDER.")
    ] = None,
    silent: Annotated[float, typer.Option(min=1, help="How many seconds of silence are still healthy.")] = SILENT_S,
    as_json: AsJson = False,
) -> None:
    """Say whether every beat, worker or recorder of this machine or container has done its duty lately.

    A beat: it ticks, and leads or follows. A worker: its loop consumes, or it works under a lease that it renews. A
    recorder: it has drained the stream. Exit code 0: healthy; 1: not. No server is asked, and no other worker.
    """
    if what.startswith("http://"):
        found = of_page(what)
    else:
        place = folder or Settings.load(services=False).health_folder
        if place is None:
            raise BeatlineError(
                f"BEATLINE_HEALTH_FOLDER is not set: set it to the same folder for this command and for the {what}, "
                "for example /tmp/beatline-health."
            )
        found = of_duty(what, place, silent)
    emit(found, as_json=as_json)
    if not found.healthy:
        raise typer.Exit(1)
