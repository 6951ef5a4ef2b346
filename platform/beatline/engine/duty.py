"""A worker's sign of life: its loop turns and consumes, or what it runs is under a lease that it has just renewed.

The second is for a solo pool, whose one thread is the loop and the task's: it cannot answer while it works.
"""

from __future__ import annotations

from typing import Any, Final

from beatline.engine.seams import StartStopStep
from beatline.engine.worker import keeper_of, settings_of
from beatline.pulse import Pulse

EVERY_S: Final = 5.0
WORKER: Final = "worker"


class Duty(StartStopStep):
    """A step of the consumer, after the one that begins to consume. Stopped with it when the connection is lost."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._turning: Any = None

    def include_if(self, parent: Any) -> bool:
        """Only where somebody may look."""
        return settings_of(parent.app).health_folder is not None

    def start(self, parent: Any) -> None:
        """Begin to show that the loop turns."""
        pulse = Pulse(settings_of(parent.app).health_folder, WORKER)
        keeper = keeper_of(parent.app)

        def turn() -> None:
            """A loop that turns does not help where every slot is held by a run that hangs."""
            if len(keeper.running(hung=True)) < (parent.pool.limit or 1):
                pulse.beat("consumes")

        keeper.on_renewed = lambda: pulse.beat("works")
        self._turning = parent.timer.call_repeatedly(EVERY_S, turn)
        turn()

    def stop(self, parent: Any) -> None:
        """The loop consumes no more."""
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None
