"""Which parts of a group stand already when one is not taken: whoever sent it is told their ids."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

_SHOWN: Final = 20

_sent: ContextVar[list[str] | None] = ContextVar("beatline_sent", default=None)


@contextmanager
def noting() -> Generator[None]:
    """What is sent in here, and not in a task, is one call's: a group's, or that of who took one producer for many."""
    if _sent.get() is not None:
        yield  # a part of something larger
        return
    token = _sent.set([])
    try:
        yield
    finally:
        _sent.reset(token)


def note(result: Any) -> None:
    """This task was sent."""
    sent = _sent.get()
    if sent is not None:
        sent.append(result.id)


def so_far() -> str:
    """A sentence for an error's text that names what was sent before in the same call; empty if nothing was."""
    sent = _sent.get()
    if not sent:
        return ""
    more = f" and {len(sent) - _SHOWN} more" if len(sent) > _SHOWN else ""
    return f"Sent before it in the same call, and not taken back: {', '.join(sent[:_SHOWN])}{more}. "
