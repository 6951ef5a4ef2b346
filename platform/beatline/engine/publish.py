"""Publish runs whose rows stand in PostgreSQL: Beat's, and those the reconciler sends again.

A run exists once its row is committed. Publishing may be repeated: a worker claims an attempt before it runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from kombu.serialization import dumps

from beatline.engine import headers as h
from beatline.engine.encoding import encodable
from beatline.engine.messages import StoredMessage, check_priority, list_key, new_message, now_ms
from beatline.ledger.events import FIELD
from beatline.task import policies
from beatline.task.arguments import UNCHECKED

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation


@dataclass(frozen=True, slots=True)
class Wanted:
    """One of many runs of a task, as `messages_of` makes them."""

    args: Sequence[Any]
    run_id: str
    day: str


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
    eta: datetime | None = None,
    expires: datetime | None = None,
) -> StoredMessage:
    """The message of a run's first attempt, as Celery would publish it, without sending it.

    `queue` and `priority` default to what the task's options and the routes say. Raises UnknownQueueError,
    MessageTooLargeError, and ArgumentsError for arguments that JSON cannot hold. Whether the task takes them is not
    looked at: who accepts them does that, with `task.arguments.check_known`.
    """
    route = _route(app, task, args, kwargs, queue)
    extra: dict[str, Any] = {} if schedule is None else {h.SCHEDULE: schedule}
    if slot is not None:
        extra[h.SLOT] = slot.isoformat()
    return _built(
        app, task, Wanted(args, run_id, day), kwargs, route, priority=priority, root_id=root_id, extra=extra, eta=eta,
        expires=expires,
    )  # fmt: skip


def messages_of(app: Celery, task: str, wanted: Sequence[Wanted]) -> list[StoredMessage]:
    """What `message_of` makes of each, but the way to their queue is looked up once, from the arguments of the first."""
    if not wanted:
        return []
    route = _route(app, task, wanted[0].args, {}, None)
    return [_built(app, task, one, {}, route) for one in wanted]


def _route(app: Celery, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], queue: str | None) -> dict[str, Any]:
    known: Any = app.tasks.get(task)
    options: dict[str, Any] = {} if known is None else _own_options(known)
    if queue is not None:
        options["queue"] = queue
    amqp: Any = app.amqp
    return cast("dict[str, Any]", amqp.router.route(options, task, args, kwargs, known))


def _built(
    app: Celery,
    task: str,
    wanted: Wanted,
    kwargs: Mapping[str, Any],
    route: Mapping[str, Any],
    *,
    priority: int | None = None,
    root_id: str | None = None,
    extra: Mapping[str, Any] | None = None,
    eta: datetime | None = None,
    expires: datetime | None = None,
) -> StoredMessage:
    amqp: Any = app.amqp
    target = route["queue"]
    with encodable(task):
        built = amqp.create_task_message(
            wanted.run_id,
            task,
            list(wanted.args),
            dict(kwargs),
            root_id=root_id,
            eta=eta,
            expires=expires if expires is not None else route.get("expires"),
            ignore_result=route.get("ignore_result"),
            time_limit=route.get("time_limit"),
            soft_time_limit=route.get("soft_time_limit"),
            **{UNCHECKED: True},
        )
        content_type, encoding, text = dumps(built.body, serializer="json")
    head = built.headers | amqp.run_headers(wanted.run_id, {h.DAY: wanted.day}) | {h.STORED: 1} | (extra or {})
    head |= policies.wire(app.tasks, task, {})
    level = priority if priority is not None else route.get("priority")
    properties = {**built.properties, "priority": check_priority(level) or 0}
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
    lists: dict[str, list[str]] = {}
    indexed: dict[str, dict[str, int]] = {}
    at = now_ms()
    for message in messages:
        key = list_key(keys, message.queue, message.priority, low_first=low_first)
        lists.setdefault(key, []).append(message.payload)
        indexed.setdefault(keys.index(message.queue), {})[message.run_id] = at
    with installation.redis.pipeline(transaction=True) as pipe:
        for key, payloads in lists.items():
            pipe.lpush(key, *payloads)
        for key, runs in indexed.items():
            pipe.zadd(key, runs)
        for message in messages:
            pipe.xadd(keys.events, {FIELD: message.queued_event().to_json()})
        pipe.execute()


def _own_options(task: Any) -> dict[str, Any]:
    """The options written in a task's decorator, those that are None left out (as Celery does when it sends by name)."""
    return {name: value for name, value in task._get_exec_options().items() if value is not None}
