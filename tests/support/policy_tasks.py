"""Tasks for tests that say more of themselves than Celery's options: strict, parked when lost, and hanging.

BEATLINE_TEST_HUNG_GRACE_S, in a worker's environment, is for how long past its hard limit a run is waited for there.
BEATLINE_TEST_TIE names a file into which the worker writes its tie to its parent, which it then has as SIGUSR2.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from celery import Task, shared_task

from beatline import current_run
from beatline.engine import lease

# As dicts: the stubs of Celery know its own options only.
PARKED: Final[dict[str, Any]] = {"on_lost": "dead"}
STRICT: Final[dict[str, Any]] = {"durable": "strict"}

if "BEATLINE_TEST_HUNG_GRACE_S" in os.environ:
    lease.HUNG_GRACE_S = float(os.environ["BEATLINE_TEST_HUNG_GRACE_S"])  # type: ignore[misc]  # scaled down


if "BEATLINE_TEST_TIE" in os.environ:
    _libc, _tie = ctypes.CDLL(None), ctypes.c_int(0)
    _libc.prctl(2, ctypes.byref(_tie), 0, 0, 0)
    with Path(os.environ["BEATLINE_TEST_TIE"]).open("a") as _log:
        _log.write(f"{_tie.value}\n")
    _libc.prctl(1, int(signal.SIGUSR2), 0, 0, 0)


class ParkedTask(Task):  # type: ignore[type-arg]  # as users write it
    """A foreign class with an option of Beatline's."""

    abstract = True
    on_lost = "dead"


def _hold(folder: str) -> None:
    run = current_run()
    with (Path(folder) / "begun").open("a") as log:
        log.write(f"{run.run_id} {run.attempt}\n")
    deadline = time.monotonic() + 30
    while not (Path(folder) / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


@shared_task(name="test.parked", **PARKED)
def parked(folder: str) -> None:
    _hold(folder)


@shared_task(name="test.parked_foreign", base=ParkedTask)
def parked_foreign(folder: str) -> None:
    _hold(folder)


@shared_task(name="test.parked_dies", **PARKED)
def parked_dies(folder: str) -> None:
    """Kills its process as soon as it has begun."""
    with (Path(folder) / "begun").open("a") as log:
        log.write(f"{current_run().run_id} {current_run().attempt}\n")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(name="test.strict", ignore_result=True, **STRICT)
def strict(folder: str) -> None:
    """Writes that it was executed, once `go` is there."""
    _hold(folder)


@shared_task(name="test.usual", ignore_result=True)
def usual(folder: str) -> None:
    """As `strict`, and is not."""
    _hold(folder)


@shared_task(name="test.strict_retry", bind=True, max_retries=3, **STRICT)
def strict_retry(self: Any, folder: str, step: str) -> None:
    """Does its first step, and asks for the second with other arguments."""
    with (Path(folder) / "steps").open("a") as log:
        log.write(f"{step} {current_run().attempt}\n")
    if step == "first":
        raise self.retry(args=(folder, "second"), countdown=0)


@shared_task(name="test.hang", time_limit=1)
def hang(folder: str) -> None:
    """Ignores its limit, as a thread does, and what a pool raises in it."""
    with (Path(folder) / "hung").open("a") as log:
        log.write(f"{current_run().run_id} {current_run().attempt} {os.getpid()}\n")
    while True:
        with suppress(BaseException):
            time.sleep(0.05)


@shared_task(name="test.count")
def count(folder: str, number: int) -> None:
    """Writes its number once an execution."""
    time.sleep(0.05)
    with (Path(folder) / "counted").open("a") as log:
        log.write(f"{number}\n")


@shared_task(name="test.hog")
def hog(seconds: int) -> None:
    """Sleeps in C without letting go of the interpreter."""
    ctypes.PyDLL(None).sleep(seconds)


@shared_task(name="test.blocks")
def blocks(folder: str, seconds: int) -> None:
    """Sleeps in C, as a driver does that waits for its server: the interpreter goes on, gevent's hub does not."""
    with (Path(folder) / "begun").open("a") as log:
        log.write(f"{current_run().run_id} {current_run().attempt}\n")
    ctypes.CDLL(None).sleep(seconds)
