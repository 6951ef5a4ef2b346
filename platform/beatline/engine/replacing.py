"""A worker whose slots are held by runs that hang replaces itself, where its pool cannot kill them (threads, gevent).

When a quarter of the slots is leaked (one, of up to four) it takes no more messages, gives back what it has not begun, lets
the runs that behave end, and then starts anew by executing its own command line: same process id, so that no supervisor is
needed and none notices. Threads that hang end there, which no exit of the interpreter would do.

Not for prefork, which kills what runs past its hard limit, nor for solo, whose loop is what hangs: `beatline health` calls
such a worker unhealthy.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from celery import signals
from celery.worker import state

from beatline.clock import monotonic_s
from beatline.engine.lease import LeaseKeeper
from beatline.engine.seams import StartStopStep
from beatline.engine.strict import stop_strict_ends
from beatline.engine.worker import keeper_of, settings_of, take_keeper
from beatline.logs import get_logger

LOOK_S: Final = 1.0
PART: Final = 4
"""One leaked slot in so many is too many."""
WITHIN_S: Final = 30.0
"""How long runs that behave may take to end, unless BEATLINE_STOP_WITHIN_S says otherwise."""
SETTLE_S: Final = 0.5
"""By then a run that a thread has just taken is known to have begun."""
_EX_SOFTWARE: Final = 70
_TERMINATED: Final = 0x3
"""celery.bootsteps.TERMINATE: the consumer has stopped."""
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_PDEATHSIG: Final = 2

log = get_logger(__name__)


class Replacing(StartStopStep):
    """A step of the consumer that looks for leaked slots, and replaces its worker when there are too many."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._looking: Any = None
        self._said = 0
        self._told_to_stop = threading.Event()
        self._replacing = False

    def include_if(self, parent: Any) -> bool:
        """Where runs share a process that cannot be killed for one of them, and a loop of its own goes on."""
        return any(pool in type(parent.pool).__module__ for pool in ("thread", "gevent", "eventlet"))

    def start(self, parent: Any) -> None:
        """Begin to look. In the worker's main thread, whose tie to its parent the new process must have too."""
        tie = Tie()
        keeper = keeper_of(parent.app)

        def look() -> None:
            self._look(parent, keeper, tie)

        self._looking = parent.timer.call_repeatedly(LOOK_S, look)
        signals.worker_shutting_down.connect(self._told, weak=False, dispatch_uid="beatline.replacing")

    def stop(self, parent: Any) -> None:
        """Look no more; the connection was lost, or the worker stops."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _told(self, **_: Any) -> None:
        self._told_to_stop.set()

    def _look(self, parent: Any, keeper: LeaseKeeper, tie: Tie) -> None:
        hung = keeper.running(hung=True)
        slots = int(parent.pool.limit or 1)
        if len(hung) > self._said:
            log.error("slots_leaked", leaked=len(hung), slots=slots, hung=hung)
        self._said = len(hung)
        if not hung or len(hung) * PART < slots or self._replacing or self._told_to_stop.is_set():
            return
        self._replacing = True
        command = own_command(sys.argv, sys.orig_argv)
        if command is None:
            log.error(
                "worker_needs_restart", hung=hung, why="it was not started by `celery worker`: restart its program"
            )
            return
        log.error("worker_replaces_itself", leaked=len(hung), slots=slots, hung=hung)
        take_keeper(parent.app)
        keeper.closing = True
        # Not a daemon: should all threads come back, the interpreter waits for this one at its end.
        threading.Thread(target=self._replace, args=(parent, keeper, tie, command), name="beatline-replacing").start()
        flags: Any = state
        flags.should_stop = os.EX_OK  # the loop ends, its consumer stops, and then the main thread waits for the pool

    def _replace(self, parent: Any, keeper: LeaseKeeper, tie: Tie, command: tuple[str, ...]) -> None:
        within_s = settings_of(parent.app).stop_within_s or WITHIN_S
        give_up = monotonic_s() + within_s
        pause = threading.Event()
        while parent.blueprint.state != _TERMINATED and monotonic_s() < give_up:
            pause.wait(0.05)
        executor = getattr(parent.pool, "executor", None)
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        pause.wait(SETTLE_S)
        keeper.give_up_waiting()
        while keeper.running(hung=False) and monotonic_s() < give_up:
            pause.wait(0.05)
        stop_strict_ends(keeper)
        keeper.stop()
        with suppress(Exception):  # the broker may be away; what is booked there comes back by itself
            parent.shutdown()
        with suppress(Exception):
            if parent.controller.pidlock:
                parent.controller.pidlock.release()
        if self._told_to_stop.is_set():
            os._exit(os.EX_OK)
        begin_anew(command, tie)


class Tie:
    """How a process is tied to its parent: by a signal that Linux sends the thread that asked for it. Made in that one."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._signal = 0
        if sys.platform == "linux":
            asked = ctypes.c_int(0)
            ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_PDEATHSIG, ctypes.byref(asked), 0, 0, 0)
            self._signal = asked.value

    def renew(self) -> None:
        """Tie this thread: the one that executes a new command becomes its main thread."""
        if not self._signal:
            return
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, self._signal, 0, 0, 0)
        if os.getppid() != self._parent:
            os.kill(os.getpid(), signal.SIGKILL)


def own_command(argv: Sequence[str], orig_argv: Sequence[str]) -> tuple[str, ...] | None:
    """The command line that started this process; None if it was not `celery worker`, which alone may begin anew."""
    program = Path(argv[0]) if argv else Path()
    is_celery = program.name == "celery" or (program.name, program.parent.name) == ("__main__.py", "celery")
    if not is_celery or "worker" not in argv or not sys.executable:
        return None
    return (sys.executable, *orig_argv[1:])


def begin_anew(command: tuple[str, ...], tie: Tie) -> None:
    """Put this command into the place of this process, whatever its threads do. Does not return."""
    try:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        tie.renew()
        os.execv(command[0], command)  # noqa: S606  # our own command line; nothing of a shell is involved
    except OSError as exc:
        log.critical("worker_not_replaced", error=str(exc), then="ends, so that whoever watches it starts it again")
        os._exit(_EX_SOFTWARE)
