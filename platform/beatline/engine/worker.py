"""What a worker process of a Beatline app starts, stops and tells: leases, the run's context, and what it cannot run."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
from dataclasses import replace
from datetime import date
from typing import Any, Final
from uuid import uuid4

from billiard.process import current_process
from celery import current_app, signals
from kombu.exceptions import DecodeError
from kombu.utils.encoding import safe_repr
from redis.exceptions import RedisError

from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine.claim import Dropped, Lease
from beatline.engine.greenlets import wait_in_pool
from beatline.engine.held import End
from beatline.engine.lease import LeaseKeeper
from beatline.engine.messages import attempt_of
from beatline.engine.reconnecting import in_pool, keep_what_is_handed_over
from beatline.engine.seams import Logging, StartStopStep
from beatline.engine.strict import stop_strict_ends
from beatline.errors import NameRefusedError
from beatline.installation import Installation
from beatline.ledger.events import SHOWN_CHARS, Event, storable
from beatline.ledger.states import EventKind
from beatline.logs import bind_run, clear_run, configure, get_logger
from beatline.names import check_run_id
from beatline.queues.census import LEAKED
from beatline.settings import Settings
from beatline.task.base import adopt
from beatline.task.cancelling import listen
from beatline.task.policies import is_strict

CONF_KEY: Final = "beatline"
"""The key of a Celery app's configuration that holds its Installation."""
_PR_SET_PDEATHSIG: Final = 1
_RUNNING: Final = 0x1
"""celery.bootsteps.RUN: the consumer is only restarting."""

log = get_logger(__name__)


def installation_of(app: Any) -> Installation:
    """The installation a Beatline app belongs to. Raises KeyError for an app that is none."""
    found: Installation = app.conf[CONF_KEY]
    return found


def settings_of(app: Any) -> Settings:
    """The settings of a Beatline app."""
    return installation_of(app).settings


_keepers: dict[tuple[int, int], LeaseKeeper] = {}


def keeper_of(app: Any) -> LeaseKeeper:
    """The keeper of this process's leases for an app; made when first asked for, one per process."""
    key = (os.getpid(), id(app))
    keeper = _keepers.get(key)
    if keeper is None:
        keeper = _keepers[key] = LeaseKeeper(settings_of(app))
    return keeper


def take_keeper(app: Any) -> LeaseKeeper | None:
    """The keeper of an app, for who stops it; from then on it is nobody else's to stop."""
    return _keepers.pop((os.getpid(), id(app)), None)


class Leases(StartStopStep):
    """A step of the consumer: adopts the tasks before their strategies are built, and keeps the leases."""

    requires = ("celery.worker.consumer.events:Events",)

    def include_if(self, parent: Any) -> bool:
        """Every worker of a Beatline app has it. Raises TaskOptionError, and KeyMissingError if a strict task's retry
        could not be sealed here."""
        for task in parent.app.tasks.values():
            adopt(task)
            if is_strict(task):
                _ = installation_of(parent.app).keyring
        return True

    def start(self, parent: Any) -> None:
        """Begin to renew, in the process that receives messages."""
        keeper_of(parent.app).start()
        keep_what_is_handed_over(parent.pool)
        wait_in_pool(parent.pool)

    def info(self, parent: Any) -> dict[str, Any]:
        """What `inspect stats` says of the leases here."""
        return {LEAKED: len(keeper_of(parent.app).running(hung=True))}

    def stop(self, parent: Any) -> None:
        """The connection was lost: what the restarting consumer has thrown away will not run here.

        A worker that stops keeps all its leases until its pool has ended and the broker has taken its messages back.
        """
        if parent.blueprint.state == _RUNNING:
            keeper_of(parent.app).forget_waiting(in_pool(parent.pool))


class WorkerLogging(Logging):
    """Celery's logging set-up replaced by ours, for this app and no other in the process."""

    def setup_logging_subsystem(
        self, loglevel: Any = None, logfile: Any = None, format: Any = None, colorize: Any = None, **options: Any
    ) -> Any:
        """Configure logging once; True: it is done, and Celery has nothing to add."""
        if not self.already_setup:
            self.already_setup = True
            level = logging.getLevelName(loglevel) if isinstance(loglevel, int) else loglevel
            # WARNING is what Celery's commands say when nobody said anything: then BEATLINE_LOG_LEVEL holds.
            configure(settings_of(self.app), level=None if level == "WARNING" else level, file=logfile)
        return True


def connect_signals() -> None:
    """Connect what every Beatline process does on Celery's signals. Connecting twice changes nothing."""
    signals.worker_before_create_process.connect(_share_with_child, dispatch_uid="beatline.fork")
    signals.worker_process_init.connect(_init_pool_process, dispatch_uid="beatline.pool")
    signals.worker_shutdown.connect(_stop_keeper, dispatch_uid="beatline.leases")
    signals.task_prerun.connect(_bind, dispatch_uid="beatline.bind")
    signals.task_postrun.connect(_clear, dispatch_uid="beatline.clear")
    signals.task_unknown.connect(_bury_unknown, dispatch_uid="beatline.unknown")
    signals.task_rejected.connect(_bury_rejected, dispatch_uid="beatline.rejected")


def _share_with_child(**_: Any) -> None:
    """What is loaded stays in pages that parent and child share: a collection would write into each object's header."""
    gc.collect()
    gc.freeze()


def _init_pool_process(**_: Any) -> None:
    """A pool child listens to what cancels its run, and dies with its parent: no zombie still runs its task then.

    Elsewhere than on Linux a child notices only when its task ends; its late end is refused by the fence.
    """
    in_child = current_process().name != "MainProcess"
    if in_child and CONF_KEY in current_app.conf:
        listen()
    if sys.platform == "linux" and in_child and CONF_KEY in current_app.conf:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop_keeper(sender: Any, **_: Any) -> None:
    keeper = take_keeper(sender.app)
    if keeper is not None:
        stop_strict_ends(keeper)
        keeper.stop()


def _bind(task: Any, **_: Any) -> None:
    if CONF_KEY not in task.app.conf:
        return
    request = task.request
    delivery: dict[str, Any] = request.delivery_info or {}
    request.beatline_bound = bind_run(
        run_id=request.id,
        task=task.name,
        schedule=request.get(h.SCHEDULE),
        queue=str(delivery.get("routing_key") or ""),
        attempt=request.get(h.ATTEMPT),
    )


def _clear(task: Any, **_: Any) -> None:
    bound = task.request.get("beatline_bound")
    if bound is not None:
        clear_run(bound)  # back to the run around it, where a task calls another in place


def _bury_unknown(sender: Any, message: Any, name: str, **_: Any) -> None:
    _bury(
        sender,
        message,
        f"no worker of its queue knows the task {name!r}: install its module, or add it to BEATLINE_TASK_MODULES",
    )


def _bury_rejected(sender: Any, message: Any, exc: BaseException | None, **_: Any) -> None:
    if not hasattr(message, "claimed"):  # else the strategy has ended the run
        _bury(sender, message, f"its message cannot be run: {what_went_wrong(exc)}")


def what_went_wrong(exc: BaseException | None) -> str:
    """An exception for people. The repr of one that could not decode a body holds that body, so it shows its text."""
    if isinstance(exc, DecodeError | UnicodeError):
        return f"{type(exc).__name__}: {exc}"
    return safe_repr(exc)


def _bury(consumer: Any, message: Any, reason: str) -> None:
    """Tell the ledger that a message was parked, if it was a run's."""
    app = consumer.app
    if CONF_KEY not in app.conf:
        return
    head: dict[str, Any] = message.headers
    delivery: dict[str, Any] = message.delivery_info or {}
    try:
        run_id = check_run_id(head[h.RUN_ID])
        attempt = attempt_of(head)
        day = date.fromisoformat(head.get(h.DAY) or utc_now().date().isoformat()).isoformat()
    except (KeyError, TypeError, ValueError, NameRefusedError) as exc:
        names = sorted(map(str, head))
        log.error("message_dropped", reason=reason, unreadable=safe_repr(exc)[:SHOWN_CHARS], headers=names)
        return
    event = Event(
        kind=EventKind.DEAD,
        run_id=run_id,
        attempt=attempt,
        day=day,
        at=utc_now().timestamp(),
        task=storable(str(head.get(h.TASK)), SHOWN_CHARS),
        queue=str(delivery.get("routing_key") or ""),
        reason=storable(reason, SHOWN_CHARS),
    )
    try:
        _end_as_dead(keeper_of(app), consumer.hostname, event)
    except RedisError as exc:
        log.exception("dead_run_not_recorded", run_id=run_id, error=str(exc))


def _end_as_dead(keeper: LeaseKeeper, worker: str, dead: Event) -> None:
    """End an attempt that cannot be executed here, if it can be claimed: a second message of it ends nothing that another
    worker executes, or has ended. Raises redis.RedisError.

    Celery has let go of the message. If it was a newer attempt's, the reconciler sends that again once the older one is
    over.
    """
    claimed = keeper.claim(dead.run_id, dead.attempt, worker, dead.day, 0, uuid4().hex, queue=dead.queue)
    if isinstance(claimed, Lease):
        event = replace(dead, day=claimed.day, worker=worker, fence=claimed.fence)
        keeper.finish(End(claimed, "ended", event))
    else:
        stands = claimed.stands if isinstance(claimed, Dropped) else "leased"
        log.info("message_dropped", run_id=dead.run_id, attempt=dead.attempt, stands=stands)
