"""Publish runs whose rows stand in PostgreSQL: Beat's, and those the reconciler sends again.

A run exists once its row is committed. Publishing may be repeated: a worker claims an attempt before it runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kombu.serialization import dumps

from beatline.engine import headers as h
from beatline.engine.messages import StoredMessage, list_key, new_message
from beatline.ledger.events import FIELD

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation


def message_of(
    app: Celery,
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    run_id: str,
    day: str,
    queue: str | None = None,
    priority: int | None = None,
    schedule: str | None = None,
    slot: datetime | None = None,
    root_id: str | None = None,
) -> StoredMessage:
    """The message of a run's first attempt, as Celery would publish it, without sending it.

    `queue` and `priority` default to what the task's options and the routes say. Raises UnknownQueueError,
    MessageTooLargeError, and kombu's EncodeError for arguments that JSON cannot hold.
    """
    amqp: Any = app.amqp
    known: Any = app.tasks.get(task)
    options: dict[str, Any] = {} if known is None else _own_options(known)
    if queue is not None:
        options["queue"] = queue
    route = amqp.router.route(options, task, args, kwargs, known)
    target = route["queue"]
    limits = {name: route.get(name) for name in ("time_limit", "soft_time_limit")}
    built = amqp.create_task_message(
        run_id,
        task,
        list(args),
        dict(kwargs),
        root_id=root_id,
        ignore_result=route.get("ignore_result"),
        **limits,
    )
    head = built.headers | amqp.run_headers(run_id, {h.DAY: day}) | {h.STORED: 1}
    if schedule is not None:
        head |= {h.SCHEDULE: schedule}
    if slot is not None:
        head |= {h.SLOT: slot.isoformat()}
    level = priority if priority is not None else route.get("priority")
    content_type, encoding, text = dumps(built.body, serializer="json")
    properties = {**built.properties, "priority": int(level or 0)}
    return new_message(
        head, (content_type, encoding, text), properties, target if isinstance(target, str) else target.name
    )


def publish_stored(installation: Installation, messages: Sequence[StoredMessage]) -> None:
    """Put messages into their queues and tell the ledger, all in one transaction of one round trip.

    Raises redis.RedisError if Redis does not answer; then it is not known whether they were queued, and they may be
    published again.
    """
    if not messages:
        return
    low_first = installation.settings.priority_order == "low_first"
    keys = installation.keys
    with installation.redis.pipeline(transaction=True) as pipe:
        for message in messages:
            pipe.lpush(list_key(keys, message.queue, message.priority, low_first=low_first), message.payload)
            pipe.xadd(keys.events, {FIELD: message.queued_event().to_json()})
        pipe.execute()


def _own_options(task: Any) -> dict[str, Any]:
    """The options written in a task's decorator, those that are None left out (as Celery does when it sends by name)."""
    return {name: value for name, value in task._get_exec_options().items() if value is not None}
