"""Cancelling as the process that executes a run sees it: which attempts are cancelled, and what tells their bodies.

A worker marks a cancelled attempt by its fence, which no other attempt ever has, in memory that the processes of a prefork
pool share with it. A body that has not begun does not begin; one that runs finds out

- by an exception, `Cancelled`, where runs are executed in a main thread of their own: prefork, solo. A signal wakes it, and
  its handler looks at the mark, so that a signal that comes late strikes no other run;
- by asking, everywhere: `check_cancelled()`, or `current_run().cancelled`. Nothing is raised into a thread from outside: it
  may hold a lock, or a connection, that its neighbours need.

What a cancelled body raises then is its cancelling, whatever it is, and a retry that it asks for is refused.
"""

from __future__ import annotations

import mmap
import signal
import struct
import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import Ignore

from beatline.engine import headers as h

if TYPE_CHECKING:
    from types import FrameType

SIGNAL: Final = signal.SIGUSR2
"""What a worker sends to the process of a run that was cancelled; SIGUSR1 is Celery's, for soft time limits."""
MOST: Final = 1024
_FENCE: Final = struct.Struct("<q")
_MARK: Final = "beatline_stoppable"


class Cancelled(Ignore):  # Celery's word for what it neither stores nor retries
    """The run that is executed was cancelled: let it pass, after tidying up. On prefork there are ten seconds for that."""


class _Marks:
    """The fences of the attempts that were cancelled last, in memory shared with the processes forked after it was made."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, MOST * _FENCE.size)
        self._lock = threading.Lock()
        self._next = 0

    def add(self, fence: int) -> None:
        with self._lock:
            at = self._next * _FENCE.size
            self._memory[at : at + _FENCE.size] = _FENCE.pack(fence)
            self._next = (self._next + 1) % MOST

    def __contains__(self, fence: int) -> bool:
        wanted, at = _FENCE.pack(fence), -1
        while (at := self._memory.find(wanted, at + 1)) >= 0:
            if at % _FENCE.size == 0:
                return True
        return False


_marks: Final = _Marks()
_bodies: Final[dict[int, int]] = {}
"""By thread, the fence of the attempt whose body it executes and that may be interrupted."""


def mark_cancelled(fence: int) -> None:
    """From now on the attempt of this fence is cancelled, for every process of this worker."""
    if fence not in _marks:
        _marks.add(fence)


def is_cancelled(fence: int) -> bool:
    """Whether the attempt of this fence, which is executed by this worker, was cancelled."""
    return fence > 0 and fence in _marks


def in_body() -> bool:
    """Whether this thread executes the body of a run, and not what Celery does around it."""
    return threading.get_ident() in _bodies


def check_cancelled() -> None:
    """Raise Cancelled if the run that is executed was cancelled. Costs a microsecond, and asks no server."""
    from beatline.task.context import current_run

    if current_run().cancelled:
        raise Cancelled


def refuse_if_cancelled(task: Any) -> None:
    """Raise Cancelled where the run that the task executes was cancelled: it asks for nothing more."""
    if is_cancelled(int(task.request.get(h.FENCE) or 0)):
        raise Cancelled


def listen() -> bool:
    """Have the main thread, which executes runs, interrupted in a body that is cancelled.

    False: a worker that somebody runs in a thread of a program of theirs. Its bodies have to ask, and the signal must not
    be sent: it would end the program.
    """
    try:
        signal.signal(SIGNAL, _interrupt)
    except ValueError:
        return False
    return True


def make_stoppable(task: Any) -> None:
    """Have a task's body not begun, or interrupted, where its run was cancelled; on the instance, and once."""
    if not hasattr(task.run, _MARK):
        task.run = _stoppable(task, task.run)
        setattr(task.run, _MARK, True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    me = threading.get_ident()
    fence = _bodies.get(me)
    if fence is not None and is_cancelled(fence):
        del _bodies[me]  # once: what tidies up after it is not interrupted again
        raise Cancelled


def _stoppable(task: Any, body: Any) -> Any:
    @wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        request, me = task.request, threading.get_ident()
        fence = int(request.get(h.FENCE) or 0)
        if not fence or request.called_directly or request.is_eager or me in _bodies:
            return body(*args, **kwargs)
        try:
            _bodies[me] = fence
            if fence in _marks:
                raise Cancelled
            return body(*args, **kwargs)
        except Exception as exc:
            if fence in _marks and not _is_settled(exc):
                raise Cancelled from exc
            raise
        finally:
            _bodies.pop(me, None)

    return run


def _is_settled(exc: Exception) -> bool:
    """Whether it says how the attempt ended for certain: a retry of a cancelled run, say, does not."""
    return isinstance(exc, Ignore)
