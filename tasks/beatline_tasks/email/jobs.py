"""The tasks of the family email; what they do is imported when they run."""

from __future__ import annotations

import random
from typing import Any, Final, Literal

from celery import Task, shared_task

from beatline.errors import ServiceError, TransientError
from beatline.task.context import current_run, installation
from beatline.task.retries import RETRIED, retry_when_asked
from beatline_tasks.email.errors import HostBusyError

HOST_BUSY: Final = "host busy"
_WAITS_AT_FULL_HOST: Final = 3
_AFTER_BUSY_S: Final = 30.0


@shared_task(name="email.poll_account", bind=True, ignore_result=True, **RETRIED)
def poll_account(self: Task[..., Any], account_id: str) -> dict[str, Any] | str:
    """Store what is new in a mailbox (its name or id); `busy` if another poll does so, `backing off` after a failure.

    `host busy` if all connections to its host are taken for long: its next poll tries again.
    """
    from beatline_tasks.email.polling import BUSY, poll

    try:
        done = poll(installation(), self.app, account_id)
        if done == BUSY and current_run().attempt > 1:
            # What holds the lock may be this run's own first attempt, whose worker was lost: it has read nothing.
            raise TransientError("The mailbox is being polled, perhaps by a worker that was lost.", _AFTER_BUSY_S)
        return done
    except HostBusyError as exc:
        if self.request.retries >= _WAITS_AT_FULL_HOST:
            return HOST_BUSY
        # No thread waits for the place: others can poll other hosts. Nor do they all come back at once.
        raise self.retry(exc=exc, countdown=exc.wait_s * random.uniform(1, 3)) from exc  # noqa: S311  # no secret
    except TransientError as exc:
        retry_when_asked(self, exc)


@shared_task(name="email.process_message", bind=True, ignore_result=True, **RETRIED)
def process_message(self: Task[..., Any], message_id: str) -> str:
    """Hand a message to the task that its mailbox names in on_message; without one it is processed."""
    from beatline_tasks.email.processing import process

    return process(installation(), self.app, message_id)


@shared_task(name="email.finish_message", ignore_result=True, **RETRIED)
def finish_message(message_id: str, state: Literal["processed", "failed"], error: str | None = None) -> str:
    """Write down how the task of on_message ended."""
    from beatline_tasks.email.processing import finish

    return finish(installation(), message_id, state, error)


@shared_task(name="email.sync_accounts", ignore_result=True, autoretry_for=(ServiceError,), max_retries=2)
def sync_accounts(interval: float = 60) -> dict[str, int]:
    """Keep one schedule for each mailbox; `interval` in seconds is of those that name none. Ends what was left open."""
    from beatline_tasks.email.leftover import end_leftover
    from beatline_tasks.email.scheduling import sync

    counts = sync(installation(), interval).counts
    return counts | end_leftover(installation())
