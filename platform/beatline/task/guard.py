"""The fence asked once more, between a task's body and what Celery makes of its end.

A worker that was frozen, or cut off from Redis, may come back after its run was given to another. Its end is refused in
any case; but Celery publishes links, the next step of a chain and the result before it says that the task has ended. So
whoever has any of these to publish asks first, in the process that ran the body; so does who asks for a retry, which would
bring back a run that was given up. What remains is the moment between the answer and the publishing: what is published in it
twice has the same run ids, and is claimed once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, TaskPredicate
from redis.exceptions import RedisError

from beatline.engine import headers as h
from beatline.engine.chords import keep_groups
from beatline.engine.patience import patiently
from beatline.failpoints import reach
from beatline.installation import Installation
from beatline.ledger.states import EventKind
from beatline.logs import get_logger

_MARK: Final = "beatline_guarded"

log = get_logger(__name__)


class LeaseLost(Ignore):  # Celery's word for what it neither stores nor publishes, as Replaced is
    """The body has come to an end that is not to be published: `how` is the kind of event that it would have been.

    `known` is whether Redis said that the lease is another's; else it did not answer.
    """

    def __init__(self, how: EventKind, known: bool = True) -> None:
        self.how, self.known = how, known
        super().__init__(how, known)


def guard(task: Any) -> None:
    """Have a task's body asked for its lease before its end is published; on the instance, and once."""
    if not hasattr(task.run, _MARK):
        task.run = _guarded(task, task.run)
        setattr(task.run, _MARK, True)


def ask(task: Any, how: EventKind) -> None:
    """Raise LeaseLost if the run that is executed has lost its lease. Nothing is asked outside of a worker's run."""
    request = task.request
    if _is_run(request) and not _holds(task.app.conf["beatline"], request, how):
        log.warning("lease_lost_before_its_end", run_id=request.id, task=task.name, end=how.value)
        raise LeaseLost(how)


def _guarded(task: Any, body: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        if not _is_run(request) or request.get(_MARK) or not _is_heard(task, request):
            return body(*args, **kwargs)
        request.beatline_guarded = True  # a body that calls itself has one end
        try:
            returned = body(*args, **kwargs)
        except TaskPredicate:
            raise  # a retry has queued its next attempt already, the others publish nothing from here
        except Exception:
            ask(task, EventKind.FAILED)
            keep_groups(request, task.app)
            raise
        finally:
            request.beatline_guarded = False
        reach("task.returned")
        ask(task, EventKind.SUCCEEDED)
        reach("task.confirmed")
        keep_groups(request, task.app)
        return returned

    return run


def _is_run(request: Any) -> bool:
    """Whether a worker executes this: no direct call, and not in place within another task."""
    return not request.called_directly and not request.is_eager and bool(request.get(h.FENCE))


def _is_heard(task: Any, request: Any) -> bool:
    """Whether anybody hears of the end: successors, a chord, or who reads a kept result."""
    if request.callbacks or request.errbacks or request.chain or request.chord:
        return True
    said = request.get("ignore_result")
    return not (task.ignore_result if said is None else said) or bool(task.store_errors_even_if_ignored)


def _holds(installation: Installation, request: Any, how: EventKind) -> bool:
    """Raises LeaseLost where Redis is silent for longer than a run is patient.

    Then nobody can say whose the lease is: nothing is published and the attempt is given up. If the lease was still its
    own, the reconciler has the run executed again, as it does for any attempt that was lost. To go on instead would have
    Celery fail to publish, and with the successors gone the run would be called failed although its body had succeeded.
    """
    key = installation.keys.run(request.id)
    try:
        fence, state = patiently(
            lambda: installation.redis.hmget(key, "fence", "state"), "end_waits_for_redis", run_id=request.id
        )
    except (RedisError, SoftTimeLimitExceeded) as exc:
        raise LeaseLost(how, known=False) from exc
    # A record that Redis has forgotten is no other holder.
    return fence is None or (int(fence) == request.get(h.FENCE) and state == "leased")
