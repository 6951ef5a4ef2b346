"""`beatline status`: what `beatline up` runs, and where, from another terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from beatline.cli import output
from beatline.embedded import table
from beatline.embedded.runfile import find_running
from beatline.errors import NotRunningError
from beatline.settings import Settings

SOMETHING_IS_DOWN: Final = 3


def command(
    as_json: output.AsJson = False,
    home: Annotated[Path | None, typer.Option(help="The data folder, instead of BEATLINE_HOME.")] = None,
) -> None:
    """Show every process of the running `beatline up`: what it serves, its memory, how it is.

    Exit code 0: all is well; 3: something is down or starting; 1: nothing runs.
    """
    settings = Settings.load(services=False, home=home)
    running = find_running(settings.home)
    if running is None:
        raise NotRunningError(str(settings.home))
    rows = table.rows(running.processes)
    if as_json:
        urls = {"flower_url": running.flower_url, "api_url": running.api_url}
        output.emit({"pid": running.pid, **urls, "processes": rows}, as_json=True)
    else:
        output.emit(rows, as_json=False, columns=table.COLUMNS)
        output.say(f"`beatline up` is process {running.pid}; all of it takes {table.total_mb(rows):.0f} MB.")
    if not table.all_well(rows):
        raise typer.Exit(SOMETHING_IS_DOWN)
