"""`beatline up`: the whole platform on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Annotated, Final

import typer

from beatline.cli import output
from beatline.embedded import table
from beatline.embedded.console import Console
from beatline.embedded.supervisor import StopRequested, Supervisor
from beatline.settings import Settings
from beatline.settings_sources import variable_of

LOOK_EVERY_S: Final = 0.25
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command(
    home: Annotated[Path | None, typer.Option(help="The data folder, instead of BEATLINE_HOME.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Keep the logs in files only.")] = False,
    flower: Annotated[bool, typer.Option(help="Run Flower.")] = True,
    api: Annotated[bool, typer.Option(help="Run the admin API.")] = True,
) -> None:
    """Run Valkey and PostgreSQL where none are configured, Beat, workers for every queue, the recorder, Flower and the API.

    What dies is started again. Data, logs and passwords are in the data folder. Ctrl-C stops everything.
    """
    settings = Settings.load(services=False, home=home)
    console = Console(settings.home / "logs", None if quiet else sys.stderr)
    readable = settings.log_format == "auto" and sys.stderr.isatty() and not quiet
    env = {variable_of("log_format"): "console"} if readable else {}
    with stop_signals() as stopped:
        supervisor = Supervisor(settings, console, env=env, flower=flower, api=api, should_stop=stopped.is_set)
        try:
            supervisor.start()
            show(supervisor)
            watch(supervisor, stopped.wait)
            output.say("Stopping …")
        except StopRequested:
            output.say("Stopped before everything was ready.")
        finally:
            supervisor.stop()
            console.close()


def show(supervisor: Supervisor) -> None:
    """Print what runs where."""
    rows = table.rows(supervisor.processes())
    output.emit(rows, as_json=False, columns=table.COLUMNS)
    output.say(f"Everything runs: {table.total_mb(rows):.0f} MB. Ctrl-C stops it; `beatline status` shows this again.")


def watch(supervisor: Supervisor, wait: Callable[[float], bool]) -> None:
    """Keep everything running until `wait` says to stop."""
    while not wait(LOOK_EVERY_S):
        supervisor.tick()


@contextmanager
def stop_signals() -> Generator[Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set, in place of ending this process."""
    stopped = Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, note) for number in _STOPPING}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
