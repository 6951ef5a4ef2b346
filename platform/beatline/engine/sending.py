"""What a caller of `.delay()` waits for, and is told: an answer within three seconds, in words.

It holds for whoever is no task: what a task sends while a worker executes it (a retry, a link, a step of a chain) waits for
Redis as long as a run is patient (see `patience`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from celery.utils.objects import FallbackContext
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError, RedisError

from beatline.clock import utc_now
from beatline.engine import expiry
from beatline.engine.encoding import encodable
from beatline.engine.given_ids import taken_once
from beatline.engine.hurry import NoAnswerError, hurried, left_s
from beatline.engine.patience import patiently
from beatline.errors import ServiceError

CALLER_S: Final = 2.4
"""So long a caller waits for Redis at the longest; what Celery does around it takes the rest of three seconds."""


_TO_DO: Final = (
    "Start Redis or correct BEATLINE_REDIS_URL; with BEATLINE_ACCEPT=postgres a task is accepted while Redis is away."
)


class NotSentError(ServiceError, OperationalError):
    """Redis did not take a task. Celery raises kombu's OperationalError here."""


def hasten(app: Any) -> None:
    """Have an app answer who sends a task with it, whatever its broker does; a task's own sending stays patient."""
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
            return send(name, args, kwargs, *rest, **options)

    def producer_or_acquire(producer: Any = None) -> Any:
        left = left_s()
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
def told(task: str, run_id: str | None) -> Generator[None]:
    """Raises NotSentError, in words, for whatever goes wrong with Redis."""
    try:
        yield
    except NotSentError:
        raise
    except NoAnswerError as exc:
        raise NotSentError(
            f"Redis does not answer ({exc}): nobody can tell whether it took the task {task!r}. If so, its run is {run_id}; "
            f"look for it before you send it again. {_TO_DO}"
        ) from exc
    except (OperationalError, RedisError) as exc:
        if _is_full(exc):
            raise NotSentError(
                f"Redis has no memory left and took nothing: the task {task!r} was not sent. "
                "Give it more (maxmemory), or empty its queues: start workers, and a recorder."
            ) from exc
        raise NotSentError(f"Redis did not take the task {task!r}, which was not sent: {exc}. {_TO_DO}") from exc


def _is_full(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, OutOfMemoryError) or str(exc).startswith("OOM "):
            return True
        exc = exc.__cause__
    return False
