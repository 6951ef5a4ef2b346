"""A Celery request that holds a lease: whatever ends it ends its attempt first, then its message.

The order matters. A crash between the two leaves a message of an ended attempt, which the next claim drops; the other
way round the end would be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError
from celery.worker.state import task_ready
from kombu.utils.encoding import safe_repr
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine.claim import Lease
from beatline.engine.deaths import death_reason, largest_child_mb
from beatline.engine.given_ids import on_behalf_of_a_run
from beatline.engine.held import End
from beatline.engine.lease import LeaseKeeper
from beatline.engine.live import leave_celery, remember
from beatline.engine.messages import list_key, next_attempt
from beatline.engine.seams import ExceptionWithTraceback, Request
from beatline.engine.strict import Uncommitted, strict_ends_of
from beatline.engine.worker import installation_of
from beatline.failpoints import reach
from beatline.ledger.events import SHOWN_CHARS, TRACEBACK_CHARS, Event, storable
from beatline.ledger.states import EventKind
from beatline.logs import get_logger
from beatline.task.base import Replaced
from beatline.task.cancelling import Cancelled
from beatline.task.guard import LeaseLost
from beatline.task.policies import is_strict, parks_when_lost

if TYPE_CHECKING:
    from beatline.settings import Settings

_DEADLY: Final = (TimeLimitExceeded, WorkerLostError, SystemExit, KeyboardInterrupt)
"""What a pool process does not outlive."""
CANCELLED: Final = "its task said that it was cancelled"
KILLED_WITHIN_S: Final = 1.0
"""When a process that ran into its hard limit is gone: billiard sends SIGTERM, and SIGKILL a tenth of a second later."""

log = get_logger(__name__)


class Limits(NamedTuple):
    """The hard and the soft time limit of a queue."""

    hard_s: float
    soft_s: float


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """What the strategy leaves on a message whose attempt it has claimed, for the request that is made of it.

    `limits` are those of its queue: prefork enforces them, on other pools the hard one bounds the lease. None: the
    worker's own hold.
    """

    lease: Lease
    keeper: LeaseKeeper
    settings: Settings
    queue: str
    limits: Limits | None


class LeasedRequest(Request):
    """A request whose attempt was claimed before it was made. Nothing a task raises gets past it unacknowledged."""

    claim: ClaimedMessage
    cancelling: str | None = None
    """Why the run was cancelled, once this worker knows of it."""
    _ended = False
    _handed_to: Any = None
    _largest_child_mb = 0
    _uncommitted: Uncommitted | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Put ours around the methods of the subclass that Celery makes for each task, which replace its base's."""
        super().__init_subclass__(**options)
        made: Any = cls
        succeed, execute = made.on_success, made.execute_using_pool

        def on_success(self: LeasedRequest, failed__retval__runtime: Any, **kwargs: Any) -> Any:
            return self.returned(succeed, failed__retval__runtime, kwargs)

        def execute_using_pool(self: LeasedRequest, pool: Any, **kwargs: Any) -> Any:
            if self._ended:
                leave_celery(self)  # cancelled or given back, while it waited for its slot
                raise TaskRevokedError(self.id)
            self.claim.keeper.hand_over(self.claim.lease)
            self.limit_by_queue(pool)
            self._handed_to = execute(self, pool, **kwargs)
            return self._handed_to

        made.on_success, made.execute_using_pool = on_success, execute_using_pool

    def __init__(self, message: Any, **options: Any) -> None:
        self.claim = message.claimed
        super().__init__(message, **options)
        remember(self)
        lease = self.claim.lease
        self._request_dict |= {h.ATTEMPT: lease.attempt, h.DAY: lease.day, h.FENCE: lease.fence}
        self._given_limit_s = (self.time_limits or (None,))[0] or self.task.time_limit

    # What Celery tells us, in the order in which it may.

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A pool took the run: the attempt begins."""
        self._largest_child_mb = largest_child_mb()
        limit_s = self._given_limit_s or (self.claim.limits and self.claim.limits.hard_s)
        # What is parked once it has begun must not be thought not to have, should this process die right now.
        at_once = parks_when_lost(self.task)
        self.claim.keeper.begin(self.claim.lease, self.event(EventKind.STARTED), limit_s, at_once=at_once)
        reach("worker.begun")
        super().on_accepted(pid, time_accepted)

    def returned(self, celery: Any, outcome: Any, options: dict[str, Any]) -> Any:
        """The pool brought a result, or what the task raised; `celery` is what Celery does of it."""
        if self._already_revoked and self._ended:
            return self._leave()  # cancelled while it ran, on a pool that cannot stop it
        if not isinstance(outcome, tuple):
            # Threads bring what is no Exception (SystemExit) home in place of an outcome, and Celery trips over it.
            return self._fail_quietly(outcome)
        failed, shown, runtime = cast("tuple[Any, Any, float]", outcome)
        if failed and isinstance(_raised(shown), SystemExit | KeyboardInterrupt):
            # Celery would raise it here, in the worker: the task asked for its own end, not for the worker's.
            return self._fail_quietly(shown)
        reach("worker.returned")
        if not failed:
            self.end(EventKind.SUCCEEDED, result=str(shown), runtime_s=runtime)
        return self._guarded(celery, self, outcome, **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A soft limit is the task's affair; the hard one ends the attempt with its process.

        Celery's own answer stores a failure and calls the errbacks, and says so after `on_failure` has been told.
        """
        if soft:
            self._guarded(super().on_timeout, soft, timeout)
        elif not self._ended:
            self.on_failure(_Told(TimeLimitExceeded(timeout)))

    def on_retry(self, exc_info: Any) -> None:
        """The task asked for another attempt, whose message is in its queue already."""
        reach("worker.retried")
        self.end(EventKind.RETRIED, error=safe_repr(exc_info.exception.exc), traceback=str(exc_info.traceback))
        super().on_retry(exc_info)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """The task raised, or the process that ran it died."""
        exc = _raised(exc_info)
        if return_ok and isinstance(exc, TimeLimitExceeded):
            self._fail_quietly(exc_info)  # another run's limit, which the task met in that run's result
        elif isinstance(exc, Cancelled):
            self.end_cancelled()
        elif self._died(exc):
            self._lost(exc, death_reason(exc, self._largest_child_mb))
        elif isinstance(exc, LeaseLost) and not exc.known:
            self._lost(exc, "Redis did not answer for long, when its end was to be published")
        elif isinstance(exc, MemoryError):
            self._fail_quietly(exc_info)  # Celery would end the worker
        elif self._end_raised(exc, exc_info) and not isinstance(exc, TimeLimitExceeded):
            self._guarded(super().on_failure, exc_info, send_failed_event, return_ok)
        else:
            self._leave()

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if self.end(EventKind.CANCELLED, reason=reason):
            super()._announce_revoked(reason, terminated, signum, expired)
        else:
            self._already_revoked = True
            self._leave()

    def reject(self, requeue: bool = False) -> None:
        """A message that is to be tried again goes back as the run's next attempt; any other is buried."""
        if requeue and not self._ended:
            self._give_back()
        elif not requeue:
            self.end(EventKind.DEAD, reason="its message was rejected")
        self._settle(partial(super().reject, requeue=False))

    def acknowledge(self) -> None:
        """Acknowledge the message; that of a strict task only when its end is committed."""
        self._settle(super().acknowledge)
        reach("worker.acknowledged")

    # What we make of it.

    @property
    def has_begun(self) -> bool:
        """Whether a pool has said that it executes the run."""
        return self.time_start is not None

    @property
    def is_over(self) -> bool:
        """Whether the attempt has its end, or was given back."""
        return self._ended

    def withdraw(self) -> bool:
        """Whether the run, which has not begun, will not: no pool has it, or it has let go of it."""
        if self._handed_to is None:
            return True
        future = getattr(self._handed_to, "f", None)  # of threads, and of gevent (see greenlets)
        return future is not None and bool(future.cancel())

    def end_cancelled(self, how: str = "") -> None:
        """End the attempt as cancelled, and tell who waits for the run."""
        if not self._ended:
            self._guarded(self._announce_revoked, f"{self.cancelling or CANCELLED}{how}", True, None, False)
        else:
            self._leave()

    def give_back(self) -> bool:
        """Put the run, which has not begun, back into its queue. False: a pool has it, which will begin it."""
        if self._ended or self.has_begun or not self.withdraw():
            return False
        self.reject(requeue=True)
        task_ready(self)
        return True

    def limit_by_queue(self, pool: Any) -> None:
        """Have the pool enforce the queue's limits, unless sender or task has set others."""
        given = (*(self.time_limits or ()), self.task.time_limit, self.task.soft_time_limit)
        if self.claim.limits is not None and "prefork" in type(pool).__module__ and not any(given):
            self.time_limits = self.claim.limits

    def end(self, kind: EventKind, **facts: Any) -> bool:
        """End the attempt once; False if the end was refused because the lease had passed to another."""
        if self._ended:
            return True
        self._ended = True
        state: Literal["ended", "closed"] = "closed" if kind in (EventKind.RETRIED, EventKind.REPLACED) else "ended"
        end = End(self.claim.lease, state, self.event(kind, **facts))
        if state == "ended" and is_strict(self.task):
            self._uncommitted = strict_ends_of(self.claim.keeper, installation_of(self.task.app)).add(end)
            return True
        taken = self.claim.keeper.finish(end)
        reach("worker.ended")
        return taken

    def _settle(self, settle: Callable[[], None]) -> None:
        if self._uncommitted is None:
            settle()
        else:
            self._uncommitted.then(settle)

    def event(self, kind: EventKind, **facts: Any) -> Event:
        """What the ledger is told of this attempt."""
        return attempt_event(self.claim, self.type, kind, **facts)

    def _end_raised(self, exc: Any, exc_info: Any) -> bool:
        """End the attempt, if it is not ended elsewhere. False: refused, so nobody is to be told of it either."""
        if isinstance(exc, LeaseLost):
            return self._refused(exc)
        if isinstance(exc, Replaced):
            return self.end(EventKind.REPLACED)
        if isinstance(exc, Ignore):
            return self.end(EventKind.SUCCEEDED, reason="the task asked for its end to be ignored")
        if isinstance(exc, Reject):
            rejected: Any = exc
            return bool(rejected.requeue) or self.end(
                EventKind.DEAD, error=safe_repr(rejected.reason), reason="the task rejected its message"
            )
        if isinstance(exc, Retry) or self._already_revoked or self._already_cancelled or _terminated(exc):
            return True  # on_retry and _announce_revoked end it; Celery queues a cancelled one again
        if isinstance(exc, _DEADLY):
            return self.end(EventKind.SUCCEEDED, reason="its process died after the result was kept")
        return self._end_failed(exc, exc_info)

    def _refused(self, lost: LeaseLost) -> bool:
        """Its process found the lease lost, and has published nothing: a wiped Redis is not to take the end after all."""
        if not self._ended:
            self._ended = True
            self.claim.keeper.finish(End(self.claim.lease, "ended", self.event(lost.how), refused=True))
        return False

    def _leave(self) -> None:
        """Acknowledge the message of an attempt of whose end nobody is told."""
        task_ready(self)
        self.acknowledge()

    def _end_failed(self, exc: BaseException, exc_info: Any) -> bool:
        retries = int(self.request_dict.get("retries") or 0)
        limit = self.task.max_retries
        used_up = retries > 0 and limit is not None and retries >= limit
        return self.end(
            EventKind.DEAD if used_up else EventKind.FAILED,
            error=safe_repr(exc),
            traceback=str(exc_info.traceback)[-TRACEBACK_CHARS:],
            reason=f"its {retries} retries are used up" if used_up else None,
        )

    def _fail_quietly(self, exc_info: Any) -> None:
        exc = _raised(exc_info)
        self._end_failed(exc, exc_info)
        task_ready(self)
        self.acknowledge()
        self.send_event("task-failed", exception=safe_repr(exc), traceback=str(exc_info.traceback))

    def _died(self, exc: object) -> bool:
        if self._already_revoked or self._already_cancelled or self._ended:
            return False
        if not isinstance(exc, _DEADLY):
            return False
        return self.ignore_result or not self._success_was_stored()

    def _lost(self, exc: object, reason: str) -> None:
        """The attempt ends without an end: the reconciler decides whether the run is tried again."""
        task_ready(self)
        give_up = partial(self.claim.keeper.abandon, self.claim.lease, reason)
        if isinstance(exc, TimeLimitExceeded):
            # The pool kills the process after it has told us; until it is gone, no other attempt is to begin.
            timer = threading.Timer(KILLED_WITHIN_S, give_up)
            timer.daemon = True
            timer.start()
        else:
            give_up()
        self._ended = True
        self.acknowledge()
        self.send_event("task-retried", exception=safe_repr(exc), traceback="")
        log.warning("attempt_lost", run_id=self.id, task=self.name, reason=reason)

    def _give_back(self) -> None:
        claim = self.claim
        message: Mapping[str, Any] = self.message._raw
        again = next_attempt(dumps(message), claim.lease.attempt + 1, claim.lease.fence >> 32)
        low_first = claim.settings.priority_order == "low_first"
        self._ended = True
        try:
            claim.keeper.give_back(
                claim.lease,
                [self.event(EventKind.RETURNED).to_json(), again.queued_event().to_json()],
                list_key(claim.settings.keys, again.queue, again.priority, low_first=low_first),
                again.payload,
            )
        except RedisError as exc:
            log.warning("lease_left_to_expire", run_id=self.id, error=str(exc))

    def _guarded(self, call: Any, *args: Any, **options: Any) -> Any:
        """Let Celery do its part. The attempt has its end, so what fails here must not hold the message or the worker."""
        try:
            with on_behalf_of_a_run():
                return call(*args, **options)
        except Exception:
            log.exception("request_callback_failed", run_id=self.id, task=self.name)
            self.acknowledge()
            return None


def attempt_event(claim: ClaimedMessage, task: str, kind: EventKind, **facts: Any) -> Event:
    """What the ledger is told of a claimed attempt; texts are cut to what is shown."""
    for name, limit in (("result", SHOWN_CHARS), ("error", SHOWN_CHARS), ("reason", SHOWN_CHARS),
                        ("traceback", TRACEBACK_CHARS)):  # fmt: skip
        if facts.get(name) is not None:
            facts[name] = storable(facts[name], limit)
    return Event(
        kind=kind,
        run_id=claim.lease.run_id,
        attempt=claim.lease.attempt,
        day=claim.lease.day,
        at=utc_now().timestamp(),
        task=task,
        queue=claim.queue,
        worker=claim.lease.worker,
        fence=claim.lease.fence,
        **facts,
    )


class _Told(NamedTuple):
    """What carries an exception home, without a traceback."""

    exception: BaseException
    traceback: str = ""


def _raised(exc_info: Any) -> Any:
    """The exception itself, out of what the pool wraps it in to carry its traceback."""
    raised = exc_info.exception
    return raised.exc if isinstance(raised, ExceptionWithTraceback) else raised


def _terminated(exc: object) -> bool:
    return type(exc).__name__ == "Terminated"  # Celery announces it as revoked, which ends the attempt
