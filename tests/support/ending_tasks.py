"""Tasks whose ends matter: held until a test lets go, heard by others, or ending with their process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Task, shared_task
from sqlalchemy import create_engine, text

from beatline import current_run
from support.foreign import ForeignTask


def _line(folder: str, name: str, *words: object) -> None:
    with (Path(folder) / name).open("a") as log:
        log.write(" ".join(map(str, words)) + "\n")


def _hold(folder: str) -> int:
    """Say that it has begun, wait until the file `go` is there (30 s at most), and return which attempt this is."""
    attempt = current_run().attempt
    _line(folder, "begun", attempt)
    deadline = time.monotonic() + 30
    while not (Path(folder) / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return attempt


@shared_task(name="ends.hold")
def hold(folder: str, fails: int = 0) -> int:
    """Which attempt it is; the attempt `fails` raises instead."""
    attempt = _hold(folder)
    if attempt == fails:
        raise RuntimeError("too late to fail")
    return attempt


@shared_task(name="ends.hold_and_replace", bind=True)
def hold_and_replace(self: Any, folder: str) -> Any:
    attempt = _hold(folder)
    return self.replace(note.si(attempt, folder, "heir"))


def _retry_once(task: Any, folder: str, countdown_s: float = 0) -> int:
    attempt = _hold(folder)
    if attempt == 1:
        raise task.retry(countdown=countdown_s)
    return attempt


@shared_task(name="ends.retry", bind=True)
def retry(self: Any, folder: str) -> int:
    """Which attempt it is; the first one asks for another."""
    return _retry_once(self, folder)


@shared_task(name="ends.retry_parks", base=Task, bind=True, on_lost="dead")
def retry_parks(self: Any, folder: str, countdown_s: float) -> int:
    """As ends.retry, after some time; but a lost attempt is the last."""
    return _retry_once(self, folder, countdown_s)


@shared_task(name="ends.retry_foreign", bind=True, base=ForeignTask)
def retry_foreign(self: Any, folder: str) -> int:
    return _retry_once(self, folder)


@shared_task(name="ends.retry_raised", autoretry_for=(RuntimeError,), default_retry_delay=0)
def retry_raised(folder: str) -> int:
    """Which attempt it is; the first one raises what is tried again."""
    attempt = _hold(folder)
    if attempt == 1:
        raise RuntimeError("another time")
    return attempt


@shared_task(name="ends.retry_soon", bind=True, soft_time_limit=4)
def retry_soon(self: Any, folder: str) -> int:
    """As ends.retry, in four seconds or not at all."""
    return _retry_once(self, folder)


@shared_task(name="ends.note")
def note(value: Any, folder: str, name: str) -> Any:
    """Write down that it ran, by name."""
    _line(folder, "notes", name, value)
    return value


@shared_task(name="ends.quiet", ignore_result=True)
def quiet() -> None:
    """A task of which nobody hears."""


@shared_task(name="ends.heard")
def heard() -> None:
    """A task whose result is kept."""


@shared_task(name="ends.takes")
def takes(seconds: float) -> None:
    """A task that takes its time."""
    time.sleep(seconds)


@shared_task(name="ends.deep", bind=True)
def deep(self: Any, depth: int = 2) -> Any:
    """A task that calls itself in place."""
    return self(depth - 1) if depth else "deep"


class CallingTask(Task):  # type: ignore[type-arg]  # as users write it
    """A base class with a way of its own around the body."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        body: Any = self.run
        return body(*args, **kwargs)


@shared_task(name="ends.called", base=CallingTask)
def called() -> None:
    """A task whose class has a `__call__` of its own."""


@shared_task(name="ends.kill")
def kill(folder: str, signum: int, megabytes: int = 0) -> None:
    """Kill the process that runs it, once it has taken that much memory."""
    _line(folder, "died", signum, current_run().attempt)
    taken = b"x" * (megabytes * 1024 * 1024)
    os.kill(os.getpid(), signum)
    time.sleep(60)
    del taken


@shared_task(name="ends.overrun", time_limit=1)
def overrun(folder: str) -> None:
    """Run into its hard limit."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _line(folder, "died", "limit", current_run().attempt)
    while True:
        _line(folder, "lives", current_run().attempt)
        time.sleep(0.01)


@shared_task(name="ends.write")
def write(folder: str, url: str, statement: str) -> None:
    """Write the attempt's number as a total with a guarded statement, twice, as after a lost connection."""
    attempt = _hold(folder)
    engine = create_engine(url)
    with engine.begin() as db:
        values = {"id": 1, "total": attempt, "fence": current_run().fence}
        rows = [db.execute(text(statement), values).rowcount for _ in range(2)]
    engine.dispose()
    _line(folder, "written", attempt, *rows)


@shared_task(name="ends.total")
def total(values: list[int], folder: str, name: str) -> int:
    """The end of a chord."""
    _line(folder, "notes", name, sum(values))
    return sum(values)
