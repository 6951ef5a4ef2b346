"""`beatline worker`: a `celery worker` with the values of the queue table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import Annotated, Final

import typer

from beatline.errors import BeatlineError, UnknownQueueError
from beatline.queues.command import Overrides, worker_command
from beatline.queues.routing import known_queues
from beatline.settings import Settings

POOLS: Final = ("prefork", "threads", "solo", "gevent")
EVERY: Final = "*"
context_settings: Final = {"allow_extra_args": True}


def command(
    ctx: typer.Context,
    queues: Annotated[
        str, typer.Option("-Q", "--queues", help="Queues to serve, separated by commas; * is every one.")
    ] = "default",
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="How many worker processes. Two solo ones beat one prefork of two."),
    ] = None,
    pool: Annotated[str | None, typer.Option("-P", "--pool", help="prefork, threads, solo or gevent.")] = None,
    concurrency: Annotated[int | None, typer.Option("-c", "--concurrency", min=1, help="Slots in a process.")] = None,
    prefetch: Annotated[
        int | None, typer.Option(min=1, help="Messages a slot holds, the running one included.")
    ] = None,
    soft_limit: Annotated[int | None, typer.Option(min=1, help="Soft time limit of a task, in seconds.")] = None,
    hard_limit: Annotated[int | None, typer.Option(min=1, help="Hard time limit of a task, in seconds.")] = None,
    log_file: Annotated[str | None, typer.Option("-f", "--log-file", help="Log there instead of on stderr.")] = None,
    app: Annotated[str, typer.Option("-A", "--app", help="The Celery app, as `celery -A` takes it.")] = "beatline",
) -> None:
    """Serve queues with the pool, concurrency, prefetch and time limits that the queue table gives them.

    What stands after `--` goes to `celery worker` as it is.
    """
    settings = Settings.load()
    known = known_queues(settings.queues)
    every = queues.strip() == EVERY
    wanted = list(known) if every else [name.strip() for name in queues.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise UnknownQueueError(name, sorted(known))
    if not wanted:
        raise BeatlineError("-Q names no queue.")
    if pool is not None and pool not in POOLS:
        raise BeatlineError(f"--pool {pool}: choose one of {', '.join(POOLS)}.")
    served = [known[name] for name in wanted]
    overrides = Overrides(pool, concurrency, prefetch, soft_limit, hard_limit, log_file)  # type: ignore[arg-type]  # checked against POOLS
    count = processes or max(queue.processes for queue in served)
    label = "all" if every else "-".join(wanted)
    commands = [
        [sys.executable, *worker_command(app, f"{label}-{os.getpid()}-{n}", served, overrides, ctx.args)]
        for n in range(1, count + 1)
    ]
    if count == 1:
        os.execv(commands[0][0], commands[0])  # noqa: S606  # our own interpreter; nothing of a shell is involved
    raise typer.Exit(_run_all(commands))


def _run_all(commands: list[list[str]]) -> int:
    """Run worker processes side by side, pass signals on, and end with the first failure's exit code.

    When one dies the others are stopped: a supervisor that restarts this command gets all of them back.
    """
    children = [subprocess.Popen(command) for command in commands]  # noqa: S603  # as above

    def pass_on(number: int, _: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, pass_on)
    codes: list[int] = []
    while len(codes) < len(children):
        _, status = os.waitpid(-1, 0)
        codes.append(os.waitstatus_to_exitcode(status))
        if len(codes) == 1 and codes[0] != 0:
            pass_on(signal.SIGTERM, None)
    return next((abs(code) for code in codes if code), 0)
