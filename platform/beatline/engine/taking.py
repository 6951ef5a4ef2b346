"""From which queues a worker takes messages: not from paused ones, and from none once it is drained.

A queue is dropped from the consumer and not from the worker's list, so that a new connection, and whoever asks what this
worker serves, find it as before. What was taken from it and has not begun goes back to it, as the run's next attempt, which
is not counted; what a process of the pool has been given goes on. A message that was on its way goes back by itself.

Whether a queue is paused stands in Redis. A thread looks once a second, because the consumer must not wait for Redis; the
consumer looks itself before it takes its first message, after each new connection.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final

from celery.worker import state
from celery.worker.control import Panel
from redis.exceptions import RedisError

from beatline.engine.live import open_requests
from beatline.engine.orders import DRAIN, paused_queues
from beatline.engine.seams import StartStopStep
from beatline.engine.worker import CONF_KEY, installation_of, keeper_of
from beatline.logs import get_logger
from beatline.queues.census import DRAINING, PAUSED

LOOK_S: Final = 1.0
_RUNNING: Final = 0x1
"""celery.bootsteps.RUN: the consumer is only restarting."""

log = get_logger(__name__)


class Taking(StartStopStep):
    """A step of the consumer that keeps to what is paused, and drains its worker when told so."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        parent.beatline_taking = self
        self._paused: frozenset[str] = frozenset()
        self._kept: tuple[frozenset[str], bool] | None = None
        self._draining = self._keeps = False
        self._looks: threading.Thread | None = None
        self._drained: Any = None

    def start(self, parent: Any) -> None:
        """Look before anything is taken, and then again and again."""
        installation = installation_of(parent.app)
        try:
            self._paused = _or(paused_queues(installation.redis, installation.keys), self._paused)
        except RedisError as exc:
            log.warning("pauses_unknown", error=str(exc), then="keeps to those known before, and looks again")
        self._keep_to_it(parent)
        if self._looks is None:
            self._looks = threading.Thread(target=self._look, args=(parent,), name="beatline-pauses", daemon=True)
            self._looks.start()

    def stop(self, parent: Any) -> None:
        """Nothing: the connection is made anew, or the worker stops."""

    def info(self, parent: Any) -> dict[str, Any]:
        """What `inspect stats` says of it."""
        return {PAUSED: sorted(self._paused & _served(parent).keys()), DRAINING: self._draining}

    def drain(self, parent: Any, *, keep: bool) -> None:
        """Take nothing more, give back what has not begun, and end once nothing runs; or stay idle. In any thread."""
        if not self._draining:
            log.info("worker_drains", then="stays, and takes nothing" if keep else "ends when nothing runs any more")
        self._draining, self._keeps = True, keep
        parent.call_soon(self._drain, parent)

    def _look(self, parent: Any) -> None:
        away = threading.Event()
        while not away.wait(LOOK_S):
            self.look(parent)

    def look(self, parent: Any) -> None:
        """Have the consumer keep to what is paused now, if that has changed, or has failed when it was tried."""
        installation = installation_of(parent.app)
        try:
            paused = _or(paused_queues(installation.redis, installation.keys), self._paused)
        except RedisError:
            return  # who needs Redis says so; pauses stand as they were
        if parent.blueprint.state == _RUNNING:
            self._paused = paused
            if self._kept != (paused, self._draining):
                parent.call_soon(self._keep_to_it, parent)

    def _keep_to_it(self, parent: Any) -> None:
        """Whatever of it was done before is not done again."""
        consumer = parent.task_consumer
        if consumer is None:
            return  # the connection is being made anew; `start` comes here again
        wanted = (self._paused, self._draining)
        served = _served(parent)
        stopped = {name for name in served if self._draining or name in self._paused}
        dropped = False
        for name, queue in served.items():
            listed = name in consumer._queues
            if name in stopped and listed:
                consumer.cancel_by_queue(name)
                dropped = True
            elif name not in stopped and not listed:
                consumer.add_queue(queue)
                consumer.consume()
                log.info("queue_resumed", queue=name)
        given = sum(one.give_back() for one in open_requests(keeper_of(parent.app)) if one.claim.queue in stopped)
        if dropped or given:
            log.info("queues_stopped", queues=sorted(stopped), given_back=given, drained=self._draining)
        self._kept = wanted

    def _drain(self, parent: Any) -> None:
        self._keep_to_it(parent)
        if self._drained is None:
            self._drained = parent.timer.call_repeatedly(0.2, self._end_when_idle, (parent,))

    def _end_when_idle(self, parent: Any) -> None:
        open_ones = [one for one in tuple(state.reserved_requests) if not getattr(one, "is_over", False)]
        if self._keeps or open_ones or keeper_of(parent.app).running():
            return
        self._drained.cancel()
        log.info("worker_drained")
        flags: Any = state
        flags.should_stop = os.EX_OK


def _or(known: frozenset[str] | None, before: frozenset[str]) -> frozenset[str]:
    """A Redis that has lost its data says nothing of pauses: what was paused stays so until it is told."""
    return before if known is None else known


def _served(parent: Any) -> dict[str, Any]:
    """The queues that this worker was started for, by name."""
    return dict(parent.app.amqp.queues.consume_from)


def _drain(state: Any, keep: bool = False, **_: Any) -> dict[str, Any]:
    """A broadcast to a worker by its name."""
    if CONF_KEY not in state.app.conf:
        return {"error": "this worker is not Beatline's"}
    state.consumer.beatline_taking.drain(state.consumer, keep=keep)
    return {"ok": "drains"}


_panel: Any = Panel
_panel.register(name=DRAIN, type="control", visible=False)(_drain)
