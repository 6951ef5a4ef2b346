"""A run id that a caller gives is taken once: a second call with it is told so, and sends nothing.

Redis knows the ids of what waits, and for a day those of what was claimed. What runs publish, or is published on behalf of
one, has ids that follow from the run's: it may come twice, is executed once, and is no error.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from beatline.engine.parts import so_far
from beatline.errors import ConflictError

_TO_BE_NEW: Final[ContextVar[bool]] = ContextVar("beatline_to_be_new", default=False)
_FOR_A_RUN: Final[ContextVar[bool]] = ContextVar("beatline_for_a_run", default=False)


@contextmanager
def on_behalf_of_a_run() -> Generator[None]:
    """What is sent in here was asked for by a run: an id that is taken is none of the sender's business."""
    token = _FOR_A_RUN.set(True)
    try:
        yield
    finally:
        _FOR_A_RUN.reset(token)


@contextmanager
def taken_once(run_id: str | None) -> Generator[None]:
    """A message that is sent in here, with this id, begins a new run. None: its id is made, and cannot be taken."""
    token = _TO_BE_NEW.set(run_id is not None and not _FOR_A_RUN.get())
    try:
        yield
    finally:
        _TO_BE_NEW.reset(token)


def is_to_be_new() -> bool:
    """Whether the message that is published now must begin a new run. True once: kombu publishes again what Redis may have
    taken although its answer was lost, and then the id is taken by the message itself."""
    asked = _TO_BE_NEW.get()
    if asked:
        _TO_BE_NEW.set(False)
    return asked


def taken(run_id: str) -> ConflictError:
    """The error of who gave an id that is taken, perhaps to a part of something larger."""
    return ConflictError(
        f"There is a run {run_id} already: its task was not sent again. {so_far()}"
        f"`beatline runs show {run_id}` says what became of it; leave the id out, and one is made."
    )
