"""Tasks for tests of cancelling, as a user would write them. A body waits for 30 s at most, or until the file `go` is there.

BEATLINE_TEST_CANCEL_GRACE_S, in a worker's environment, is for how long a cancelled body is waited for there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import shared_task

from beatline import Cancelled, check_cancelled, current_run
from beatline.engine import cancelling

if "BEATLINE_TEST_CANCEL_GRACE_S" in os.environ:
    cancelling.GRACE_S = float(os.environ["BEATLINE_TEST_CANCEL_GRACE_S"])  # type: ignore[misc]  # scaled down


def _note(folder: str, name: str) -> None:
    with (Path(folder) / name).open("a") as log:
        log.write(f"{current_run().run_id} {current_run().attempt}\n")


def _turns(folder: str) -> Any:
    deadline = time.monotonic() + 30
    while not (Path(folder) / "go").exists() and time.monotonic() < deadline:
        yield
        time.sleep(0.02)


@shared_task(name="test.obeys")
def obeys(folder: str) -> str:
    """Tidies up when it is cancelled, and then fails in its own way."""
    _note(folder, "begun")
    try:
        for _ in _turns(folder):
            pass
    except Cancelled:
        _note(folder, "tidied")
        raise ValueError("what a library makes of it") from None
    return "done"


@shared_task(name="test.stubborn", ignore_result=True)
def stubborn(folder: str) -> None:
    """Takes no notice of what it is told."""
    _note(folder, "begun")
    for _ in range(2):
        try:
            for _ in _turns(folder):
                pass
        except Cancelled:
            _note(folder, "ignored")
    _note(folder, "done")


@shared_task(name="test.asks")
def asks(folder: str) -> None:
    """Asks whether it is cancelled, as a loop in a thread does."""
    _note(folder, "begun")
    for _ in _turns(folder):
        check_cancelled()


@shared_task(name="test.retries_when_cancelled", bind=True, max_retries=5)
def retries_when_cancelled(self: Any, folder: str) -> None:
    """Asks for a retry after it was cancelled."""
    _note(folder, "begun")
    try:
        for _ in _turns(folder):
            check_cancelled()
    except Cancelled:
        _note(folder, "retrying")
        raise self.retry(countdown=0) from None


@shared_task(name="test.limited", rate_limit="1/h")
def limited() -> None:
    """Waits for an hour in its worker, unless it is the first."""


@shared_task(name="test.note")
def note(_before: Any, folder: str, name: str) -> None:
    """The next step of a chain."""
    _note(folder, name)
