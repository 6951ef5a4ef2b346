"""How long a worker that was asked to stop waits for what it runs: after that it gives the runs back and ends.

SIGTERM alone waits for ever, until whoever sent it loses patience and kills, which counts against the runs. Celery's own
answer, REMAP_SIGTERM=SIGQUIT with a soft shutdown, sleeps the whole time even if nothing runs, and on a threads pool its
cancelling raises in the middle of the shutdown, which then hangs. A warm shutdown that turns cold does neither.
"""

from __future__ import annotations

import os
import signal
import threading
from queue import SimpleQueue
from typing import Any

from celery import signals

from beatline.engine.seams import StartStopStep
from beatline.engine.worker import settings_of
from beatline.logs import get_logger

log = get_logger(__name__)


class Stopping(StartStopStep):
    """A step of the consumer that sends SIGQUIT to its own worker when a warm shutdown takes longer than it may.

    Not on a solo pool: there the cold shutdown raises inside the task, which would fail instead of being given back.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._asked: SimpleQueue[None] = SimpleQueue()  # its `put` may be called by a signal handler
        self._conf = parent.app.conf
        self._within_s: float | None = settings_of(parent.app).stop_within_s
        self._waits = False

    def include_if(self, parent: Any) -> bool:
        """Where a time is set, and the pool can be stopped cold."""
        return settings_of(parent.app).stop_within_s is not None and "solo" not in type(parent.pool).__module__

    def start(self, parent: Any) -> None:
        """Wait for the shutdown; once, however often the connection is made anew."""
        if not self._waits:
            self._waits = True
            signals.worker_shutting_down.connect(self._begin, weak=False, dispatch_uid="beatline.stopping")
            threading.Thread(target=self._wait, name="beatline-stopping", daemon=True).start()

    def stop(self, parent: Any) -> None:
        """Nothing: the shutdown has just begun, or the connection is made anew."""

    def _begin(self, how: str, **_: Any) -> None:
        if how == "Warm":
            self._asked.put(None)

    def _wait(self) -> None:
        self._asked.get()
        self._conf.worker_soft_shutdown_timeout = 0.0  # what runs has had its time
        threading.Event().wait(self._within_s)
        log.warning("stops_now", waited_s=self._within_s, then="gives back what still runs")
        os.kill(os.getpid(), signal.SIGQUIT)
