"""The tasks of a trial, for Beatline and for stock Celery alike. The run's id is the key of its effect."""

from __future__ import annotations

import os
import time
from typing import Any, Final
from uuid import uuid4

from celery import Task, shared_task

from beatline import current_run
from beatline.engine import delay
from beatline.failpoints import reach
from chaos.journal import Journal

LONGEST_QUEUED_S: Final = "CHAOS_LONGEST_QUEUED_S"
"""The variable that scales down from which delay on a run waits in PostgreSQL: no setting does."""


def wait_in_postgres_from(seconds: float) -> None:
    """Have delays longer than that leave Redis, in this process."""
    delay.LONGEST_QUEUED_S = seconds  # type: ignore[misc]  # pyright: ignore[reportConstantRedefinition]


if LONGEST_QUEUED_S in os.environ:
    wait_in_postgres_from(float(os.environ[LONGEST_QUEUED_S]))


@shared_task(name="chaos.work", bind=True, ignore_result=True, max_retries=5)
def work(self: Any, takes_s: float, retries: int = 0, countdown_s: float = 0.0) -> None:
    """Take some time, ask for as many retries as wanted, then take effect once."""
    _execute(self, takes_s, retries, countdown_s)


@shared_task(name="chaos.strict", base=Task, bind=True, ignore_result=True, max_retries=5, durable="strict")
def strict(self: Any, takes_s: float, retries: int = 0, countdown_s: float = 0.0) -> None:
    """The same, and its end is in PostgreSQL before its message is acknowledged."""
    _execute(self, takes_s, retries, countdown_s)


def _execute(task: Any, takes_s: float, retries: int, countdown_s: float) -> None:
    journal, run, execution = Journal.of_environment(), current_run(), uuid4().hex
    # A child of a pool dies with its worker: who kills the worker has killed both.
    who = {"execution": execution, "attempt": run.attempt, "fence": run.fence, "pids": [os.getpid(), os.getppid()]}
    journal.write("start", run.run_id, **who)
    time.sleep(takes_s)
    reach("task.before_effect")
    if task.request.retries < retries:
        journal.write("retry", run.run_id, execution=execution)
        raise task.retry(countdown=countdown_s)
    taken = journal.effect(run.run_id, run.fence, execution)
    journal.write("effect", run.run_id, execution=execution, taken=taken)
    reach("task.after_effect")
    journal.write("done", run.run_id, execution=execution)
