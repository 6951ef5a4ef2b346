"""Tasks for tests, as a user would write them: plain `@shared_task`, nothing of Beatline's but what is named."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import shared_task
from celery.exceptions import Reject
from celery.exceptions import TimeoutError as CeleryTimeoutError

from beatline import current_run
from support.foreign import ForeignTask


@shared_task(name="test.add")
def add(x: int, y: int) -> int:
    return x + y


@shared_task(name="test.anything")
def anything(*args: Any, **kwargs: Any) -> int:
    """A task that takes whatever it is given."""
    return len(args) + len(kwargs)


@shared_task(name="test.forget", ignore_result=True)
def forget() -> None:
    """A task whose result is not kept."""


@shared_task(name="test.whoami")
def whoami() -> dict[str, Any]:
    run = current_run()
    return {"run_id": run.run_id, "attempt": run.attempt, "fence": run.fence, "queue": run.queue, "task": run.task}


@shared_task(name="test.fail")
def fail(password: str = "") -> None:
    raise RuntimeError("on purpose")


@shared_task(name="test.flaky", bind=True, max_retries=3, base=ForeignTask)
def flaky(self: Any, failures: int) -> int:
    """Succeeds once it has been retried `failures` times; returns the attempt that did."""
    if self.request.retries < failures:
        raise self.retry(countdown=0, exc=ValueError("not yet"))
    return current_run().attempt


@shared_task(name="test.replace", bind=True)
def replace(self: Any, signature: Any) -> Any:
    return self.replace(self.app.signature(signature))


@shared_task(name="test.replace_foreign", bind=True, base=ForeignTask)
def replace_foreign(self: Any, signature: Any) -> Any:
    return self.replace(self.app.signature(signature))


@shared_task(name="test.requeue", bind=True, acks_late=True)
def requeue(self: Any) -> int:
    """Gives its message back once."""
    if current_run().attempt == 1:
        raise Reject("not here", requeue=True)
    return current_run().attempt


@shared_task(name="test.reject")
def reject() -> None:
    raise Reject("unfit", requeue=False)


@shared_task(name="test.hold")
def hold(folder: str) -> str:
    """Writes who runs it, and ends when the file `go` is there (in 30 s at the latest)."""
    run = current_run()
    with (Path(folder) / "begun").open("a") as log:
        log.write(f"{run.run_id} {run.attempt} {run.fence} {os.getpid()}\n")
    deadline = time.monotonic() + 30
    while not (Path(folder) / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with (Path(folder) / "done").open("a") as log:
        log.write(f"{run.run_id} {run.attempt}\n")
    return "held"


@shared_task(name="test.die")
def die(folder: str) -> None:
    """Kills the process that runs it, as the kernel does when memory runs out."""
    with (Path(folder) / "died").open("a") as log:
        log.write(f"{current_run().attempt}\n")
    os.kill(os.getpid(), signal.SIGKILL)


class UnprintableError(Exception):
    """An exception that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class CarryingError(Exception):
    """An exception of a library that keeps another in `exc`, as Celery's own do."""

    exc = None


@shared_task(name="test.raises")
def raises(what: str) -> None:
    kinds: dict[str, BaseException] = {
        "memory": MemoryError("out of it"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "unprintable": UnprintableError(),
        "carrying": CarryingError("mine"),
        "waited": CeleryTimeoutError("of its own"),
    }
    raise kinds[what]


@shared_task(name="test.early", bind=True, acks_late=False)
def early(self: Any) -> int:
    """Acknowledged when it begins, and given back all the same."""
    if current_run().attempt == 1:
        raise Reject("not here", requeue=True)
    return current_run().attempt


@shared_task(name="test.later", bind=True)
def later(self: Any, countdown: float) -> int:
    """Asks once to be tried again so much later; returns the attempt that was."""
    if current_run().attempt == 1:
        raise self.retry(countdown=countdown)
    return current_run().attempt


@shared_task(name="test.later_foreign", bind=True, base=ForeignTask)
def later_foreign(self: Any, countdown: float) -> int:
    if current_run().attempt == 1:
        raise self.retry(countdown=countdown)
    return current_run().attempt


_STRICT: dict[str, Any] = {"durable": "strict"}  # as a dict: the stubs of Celery know its own options only


@shared_task(name="test.later_strict", bind=True, **_STRICT)
def later_strict(self: Any, countdown: float) -> int:
    if current_run().attempt == 1:
        raise self.retry(countdown=countdown)
    return current_run().attempt


@shared_task(name="test.replaced_later", bind=True)
def replaced_later(self: Any) -> Any:
    return self.replace(add.s(1, 2).set(countdown=3600))


@shared_task(name="test.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)
