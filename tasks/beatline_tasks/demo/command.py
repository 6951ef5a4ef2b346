"""Collect, transform, report and mail real data once, end to end, and count what was lost or doubled."""

from __future__ import annotations

from typing import Annotated

import typer

from beatline.cli.output import AsJson


def command(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running, with Flower, until Ctrl-C.")] = False,
    seconds: Annotated[float, typer.Option(help="How long the feed grows.", min=1, max=600)] = 16.0,
    as_json: AsJson = False,
) -> None:
    """Collect, transform, report and mail real data once, end to end, and count what was lost or doubled.

    Four years of Seattle's weather come from a local feed in pages, with ETags and now and then a 429 or a 503. Beat
    fires every second; two workers collect; one is killed on the way, and its run comes back. Then a job makes monthly
    figures, a report of them is mailed into one of 20 mailboxes, and polling finds it there. Servers and data are the
    demo's own. Exits with 1 if anything is missing.
    """
    from beatline_tasks.demo.show import run_and_show

    if not run_and_show(keep=keep, grow_s=seconds, as_json=as_json):
        raise typer.Exit(1)
