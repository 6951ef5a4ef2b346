"""The task class: Celery's, with our strategy around it. It holds nothing that a task of another class would miss."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, Final, cast

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject

from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine.delay import due
from beatline.engine.patience import NOT_TAKEN
from beatline.engine.seams import Task as CeleryTask
from beatline.ledger.states import EventKind
from beatline.task import policies
from beatline.task.cancelling import make_stoppable, refuse_if_cancelled
from beatline.task.guard import LeaseLost, ask, guard

STRATEGY: Final = "beatline.engine.strategy:leased"
REQUEST: Final = "beatline.engine.request:LeasedRequest"


class Replaced(Ignore):
    """The attempt ended by putting another task in its place, under the same run id."""


class Task(CeleryTask):
    """The default class of tasks of a Beatline app."""

    abstract = True
    Strategy = STRATEGY
    Request = REQUEST

    on_lost: str = policies.REPEAT
    durable: str = policies.DRAINED

    def __init_subclass__(cls, **options: Any) -> None:
        """Raises TaskOptionError where the decorator, or a class, has a wrong value for an option of Beatline's."""
        super().__init_subclass__(**options)
        policies.check(cls)

    def retry(self, *args: Any, **options: Any) -> Any:
        """As Celery's. Raises Cancelled if the run was cancelled, and DelayError if its countdown or eta is none; then
        nothing was sent. LeaseLost if another worker has taken the run meanwhile, which may be dead by now; or if Redis did
        not take the retry for long: then this attempt is lost, not the run."""
        refuse_if_cancelled(self)
        _check_retry(args, options)
        ask(self, EventKind.RETRIED)
        with _unless_sent():
            return super().retry(*args, **options)

    def on_replace(self, sig: Any) -> Any:
        """As Celery's; whichever task of the replacement inherits the run id asks for the run's next attempt.

        Raises Replaced, which is Celery's Ignore.
        """
        return _on_replace(self, sig)


def adopt(task: CeleryTask) -> None:
    """Guard a task's body, and give one of a foreign class our strategy, on the instance, leaving its class alone.

    Raises TaskOptionError, which a task of ours has raised when it was made.
    """
    policies.check(task)
    make_stoppable(task)  # within the guard: what was cancelled has nothing to publish
    guard(task)
    if isinstance(task, Task):
        return
    task.Strategy, task.Request = STRATEGY, REQUEST
    task.retry = MethodType(_retry, task)  # type: ignore[method-assign]  # on the instance, and only there
    task.on_replace = MethodType(_on_replace, task)  # type: ignore[method-assign]  # on the instance, and only there


def _retry(task: Any, *args: Any, **options: Any) -> Any:
    refuse_if_cancelled(task)
    _check_retry(args, options)
    ask(task, EventKind.RETRIED)
    theirs = cast("Any", type(task))
    with _unless_sent():
        return theirs.retry(task, *args, **options)


@contextmanager
def _unless_sent() -> Generator[None]:
    """Give this attempt up where the next one could not be sent: Celery would reject the message, and end the run.

    Raises LeaseLost. Redis may have taken the retry though its answer was lost: its attempt is executed once all the same.
    """
    try:
        yield
    except Reject as rejected:
        reason: object = cast("Any", rejected).reason
        if isinstance(reason, (*NOT_TAKEN, SoftTimeLimitExceeded)):
            raise LeaseLost(EventKind.RETRIED, known=False) from rejected
        raise


def _check_retry(args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Here, because what Celery meets when it sends the retry it turns into the rejection of this attempt's message."""
    eta, countdown = (*args[4:6], None, None)[:2] if len(args) > 4 else (None, None)
    due(options.get("countdown", countdown), options.get("eta", eta), utc_now())


def _on_replace(task: Any, sig: Any) -> Any:
    refuse_if_cancelled(task)
    ask(task, EventKind.REPLACED)
    run_id = task.request.id
    marks = {h.ATTEMPT: int(task.request.get(h.ATTEMPT) or 1) + 1, h.DAY: task.request.get(h.DAY)}
    for heir in _heirs(sig, run_id):
        heir["options"]["headers"] = {**(heir["options"].get("headers") or {}), **marks}
    try:
        return CeleryTask.on_replace(task, sig)
    except Ignore as exc:
        raise Replaced(*exc.args) from exc


def _heirs(sig: Any, run_id: str) -> Iterator[Any]:
    """Every signature in a replacement that has been given the run id: itself, the end of a chain, a chord's body.

    A chain that was given its ids keeps the tasks it will send apart from those it shows.
    """
    if sig["options"].get("task_id") == run_id:
        yield sig
    inner: list[Any] = [*(sig["kwargs"].get("tasks") or []), *((getattr(sig, "_frozen", None) or [[]])[0] or [])]
    body = sig["kwargs"].get("body")
    for part in [*inner, *([body] if body else [])]:
        yield from _heirs(part, run_id)
