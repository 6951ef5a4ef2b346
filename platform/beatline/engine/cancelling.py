"""How a worker ends a run that was cancelled: softly, then, where its pool can, by force.

The order stands on the run's record in Redis, and in PostgreSQL. A worker is told of it at once by a broadcast, and by each
renewal of the lease, so that one that was away learns of it too.

| pool | a run that has begun |
|---|---|
| prefork | `Cancelled` is raised in its body; its process is killed 10 s later, at once if the order is hard |
| solo | `Cancelled` is raised in its body; nothing more. In a thread of a program: it finds out where it asks |
| threads, gevent | its body finds out where it asks (`check_cancelled`); hard: its end is written now, its late one is refused |

What has not begun ends at once on every pool, or is stopped at the first line of its body.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from celery.worker.control import Panel

from beatline.engine.live import request_of
from beatline.engine.orders import CANCEL, Order
from beatline.engine.seams import StartStopStep
from beatline.engine.worker import CONF_KEY, keeper_of
from beatline.logs import get_logger
from beatline.task.cancelling import SIGNAL, listen, mark_cancelled

if TYPE_CHECKING:
    from beatline.engine.request import LeasedRequest

GRACE_S: Final = 10.0
"""How long the body of a cancelled run may tidy up, before its process is killed."""
AGAIN_S: Final = 1.0
LOOK_S: Final = 0.25
"""A run that a pool has taken and not said to have begun is looked at again so soon."""

log = get_logger(__name__)


class Cancelling(StartStopStep):
    """A step of the consumer that carries out orders to cancel what is held here. In the thread of the consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._known: dict[int, bool] = {}
        pool = type(parent.pool).__module__
        self._forked, self._solo = "prefork" in pool, "solo" in pool
        self._listens = False

    def start(self, parent: Any) -> None:
        """Listen to the keeper; in a solo worker, which executes runs in this thread, to the signal too."""
        if self._solo:
            self._listens = listen()
        keeper_of(parent.app).on_cancelled = partial(self._told, parent)

    def stop(self, parent: Any) -> None:
        """Nothing: the connection is made anew, or what runs has the time that a shutdown gives it."""

    def _told(self, parent: Any, orders: Mapping[int, str]) -> None:
        """In any thread: a solo worker's own one is in a body."""
        for fence, text in orders.items():
            order = Order.parse(text)
            request = request_of(keeper_of(parent.app), fence)
            if request is not None:
                request.cancelling = order.reason  # before its body can know
            mark_cancelled(fence)  # anew: it holds the last ones only
            if self._known.get(fence) in (True, order.hard):
                continue
            self._known[fence] = order.hard
            if self._listens:
                os.kill(os.getpid(), SIGNAL)  # looked at in the main thread, and nothing outside of this run's body
            parent.call_soon(self._carry_out, parent, fence, order)
        if len(self._known) > len(orders) + 1000:
            self._known = {fence: self._known[fence] for fence in orders}

    def _carry_out(self, parent: Any, fence: int, order: Order) -> None:
        request = request_of(keeper_of(parent.app), fence)
        if request is None:
            if any(lease.fence == fence for lease in keeper_of(parent.app).held()):
                # Its request is about to be made, or its end waits to be committed.
                parent.timer.call_after(AGAIN_S, self._carry_out, (parent, fence, order))
            return
        request.cancelling = order.reason
        log.info("run_cancelled_here", run_id=request.id, task=request.name, hard=order.hard, reason=order.reason)
        self._soft(parent, request, order)

    def _soft(self, parent: Any, request: LeasedRequest, order: Order) -> None:
        if request.is_over:
            return
        if not request.has_begun:
            if request.withdraw():
                request.end_cancelled()
            else:
                parent.timer.call_after(LOOK_S, self._soft, (parent, request, order))
            return
        if order.hard:
            self._hard(parent, request, order)
            return
        if self._forked:
            _to_process(parent.pool, request, partial(os.kill, request.worker_pid, SIGNAL))
            parent.timer.call_after(GRACE_S, self._hard, (parent, request, order))

    def _hard(self, parent: Any, request: LeasedRequest, order: Order) -> None:
        if request.is_over:
            return
        if self._forked:
            _to_process(parent.pool, request, partial(parent.pool.terminate_job, request.worker_pid, signal.SIGKILL))
            request.end_cancelled(" (its process was killed)")
        elif not self._solo:
            request.end_cancelled(" (its thread goes on until it ends by itself, and its end is refused)")


def _to_process(pool: Any, request: LeasedRequest, do: Callable[[], None]) -> None:
    """To the process that executes a run, if it is there still: its number may be another's."""
    process, _ = pool._pool._process_by_pid(request.worker_pid)
    if process is not None:
        with suppress(ProcessLookupError):
            do()


def _cancel(state: Any, run_id: str, order: str, **_: Any) -> None:
    """A broadcast: the order stands on the run's record already, and this worker may hold the run."""
    if CONF_KEY not in state.app.conf:
        return
    keeper = keeper_of(state.app)
    fences = [lease.fence for lease in keeper.held() if lease.run_id == run_id]
    if fences and keeper.on_cancelled is not None:
        keeper.on_cancelled(dict.fromkeys(fences, order))


_panel: Any = Panel
_panel.register(name=CANCEL, type="control", visible=False)(_cancel)
