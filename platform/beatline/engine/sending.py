"""What a caller of `.delay()`, or of a canvas, waits for, and is told: an answer within three seconds, in words.

What several tasks are sent with ends at the first that Redis does not take (what a chord writes besides: `result_backend`).

It holds for whoever is no task: what a task sends while a worker executes it (a retry, a link, a step of a chain) waits for
Redis as long as a run is patient (see `patience`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from uuid import uuid4

from celery.utils.objects import FallbackContext
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError, RedisError

from beatline.clock import utc_now
from beatline.engine import expiry
from beatline.engine.accept_first import rows_first
from beatline.engine.encoding import encodable
from beatline.engine.given_ids import taken_once
from beatline.engine.hurry import NoAnswerError, hurried, left_s
from beatline.engine.parts import note, noting, so_far
from beatline.engine.patience import patiently
from beatline.errors import ServiceError

CALLER_S: Final = 2.4
"""So long a caller waits for Redis at the longest; what Celery does around it takes the rest of three seconds."""


_TO_DO: Final = (
    "Start Redis or correct BEATLINE_REDIS_URL; with BEATLINE_ACCEPT=postgres a task is accepted while Redis is away."
)


class NotSentError(ServiceError, OperationalError):
    """Redis did not take a task, or a part of a canvas. Celery raises kombu's OperationalError here."""


def hasten(app: Any) -> None:
    """Have an app answer who sends with it, whatever its broker does; a task's own sending stays patient."""
    send, acquire = app.send_task, app.producer_or_acquire

    def send_task(name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        expiry.check_sent(app, rest, options, utc_now())
        given = rest[2] if len(rest) > 2 else options.get("task_id")
        if len(rest) < 3:  # else the id is given by its place
            options["task_id"] = given or str(uuid4())
        if app.current_worker_task is not None:
            with encodable(name):  # sent twice, under one id, is executed once
                return patiently(
                    lambda: send(name, args, kwargs, *rest, **options), "sending_waits_for_redis", task=name
                )
        with hurried(CALLER_S), told(name, options.get("task_id")), encodable(name), taken_once(given):
            sent = send(name, args, kwargs, *rest, **options)
            note(sent)
            return sent

    def producer_or_acquire(producer: Any = None) -> Any:
        left = left_s()
        if left is None and app.current_worker_task is None:
            return _for_many(app, producer)
        if producer is not None or left is None:
            return acquire(producer)
        # All producers of the pool may be in the hands of callers who wait for the same Redis.
        return FallbackContext(None, app._acquire_producer, timeout=left)

    app.send_task = send_task
    app.producer_or_acquire = producer_or_acquire
    backends: dict[str, str] = dict(app.loader.override_backends)
    ours = "beatline.engine.result_backend:ResultBackend"
    app.loader.override_backends = {"redis": ours, "rediss": ours} | backends


@contextmanager
def _for_many(app: Any, producer: Any) -> Generator[Any]:
    """A producer for a group, which sends part after part with it; each has its own deadline, for there may be many.

    Whoever had the producer before may have waited for Redis as long as a caller does. So Redis is asked first, and the
    first part not waited for as long again; but not where rows accept what is sent, for then it need not answer.
    """
    with noting(), ExitStack() as held:
        if producer is None:
            with hurried(CALLER_S), _told_of_all():
                producer = held.enter_context(app._acquire_producer(timeout=left_s()))
                if not rows_first(app):
                    app.conf["beatline"].redis.ping()
        yield producer


@contextmanager
def _told_of_all() -> Generator[None]:
    try:
        yield
    except (OperationalError, RedisError) as exc:
        nothing = "no part of the group was sent"
        raise in_words(exc, nothing, nothing) from exc


@contextmanager
def told(task: str, run_id: str | None) -> Generator[None]:
    """Raises NotSentError, in words, for whatever goes wrong with Redis."""
    try:
        yield
    except NotSentError:
        raise
    except (OperationalError, RedisError) as exc:
        unknown = (
            f"nobody can tell whether it took the task {task!r}. If so, its run is {run_id}; "
            "look for it before you send it again"
        )
        raise in_words(exc, f"the task {task!r} was not sent", unknown) from exc


def in_words(exc: Exception, not_sent: str, unanswered: str, to_do: str = _TO_DO) -> NotSentError:
    """What to tell a caller of an error of Redis's: that it took nothing, or, where it did not answer, what that means."""
    if isinstance(exc, NoAnswerError):
        return NotSentError(f"Redis does not answer ({exc}): {unanswered}. {so_far()}{to_do}")
    if _is_full(exc):
        return NotSentError(
            f"Redis has no memory left and took nothing: {not_sent}. {so_far()}"
            "Give it more (maxmemory), or empty its queues: start workers, and a recorder."
        )
    return NotSentError(f"Redis did not take it ({exc}): {not_sent}. {so_far()}{to_do}")


def _is_full(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, OutOfMemoryError) or str(exc).startswith("OOM "):
            return True
        exc = exc.__cause__
    return False
