"""Celery's message factory with Beatline's headers: attempt numbers, the run's day, and arguments fit to be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from celery.exceptions import QueueNotFound
from celery.utils.functional import head_from_fun
from celery.utils.saferepr import saferepr

from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine.accept_first import accept_first, rows_first
from beatline.engine.delay import check_sent
from beatline.engine.messages import check_priority, priority_of
from beatline.engine.seams import AMQP, Router
from beatline.engine.successors import name_successors
from beatline.engine.transport import Connection
from beatline.errors import UnknownQueueError
from beatline.names import check_run_id
from beatline.secrets import mask
from beatline.task import policies
from beatline.task.arguments import UNCHECKED, check_known


class BeatlineRouter(Router):
    """A router that names the queues there are when a task is sent to one that is not."""

    def expand_destination(self, route: Any) -> dict[str, Any]:
        wanted = route if isinstance(route, str) else route.get("queue")  # Celery takes it out of the route
        try:
            return super().expand_destination(route)
        except QueueNotFound:
            raise UnknownQueueError(str(wanted), sorted(self.queues)) from None


class BeatlineAMQP(AMQP):
    """Writes the wire contract of headers.py into every task message that this app sends."""

    Connection = Connection
    BrokerConnection = Connection

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> BeatlineRouter:
        """The router of this app; a queue that nothing declares is an error at the caller."""
        return BeatlineRouter(self.routes, queues or self.queues, False, app=self.app)

    def as_task_v2(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
    ) -> Any:
        """Celery's protocol 2, with secrets masked in what is shown of the arguments, and an id for every link."""
        if not options.pop(UNCHECKED, False):
            check_known(self.app.tasks, name, args, kwargs)
        check_sent(rest, options, utc_now())
        if options.get("argsrepr") is None:
            options["argsrepr"] = saferepr(mask(args), self.argsrepr_maxsize) if args else "()"
        if options.get("kwargsrepr") is None:
            options["kwargsrepr"] = saferepr(mask(kwargs), self.kwargsrepr_maxsize) if kwargs else "{}"
        message = super().as_task_v2(task_id, name, args, kwargs, *rest, **options)
        embed: dict[str, Any] = message.body[2]
        embed.update(name_successors(embed, task_id))
        return message

    def _create_task_sender(self) -> Callable[..., Any]:
        send = super()._create_task_sender()

        def send_task_message(
            producer: Any, name: str, message: Any, headers: Mapping[str, Any] | None = None, **options: Any
        ) -> Any:
            task_id = check_run_id(message.headers[h.RUN_ID])
            if self._asks_again(task_id):
                options["priority"] = priority_of(options) or 0  # of whatever sender it was
            else:
                check_priority(options.get("priority"))
            wire = {**(headers or {}), **self.run_headers(task_id, headers or {})}
            wire.pop(h.ON_LOST, None)
            wire |= policies.wire(self.app.tasks, name, headers or {})
            if self._asks_again(task_id) and policies.is_strict(self.app.current_worker_task):
                wire[h.COMMIT] = 1
            if h.STORED in wire and not wire[h.STORED]:
                del wire[h.STORED]
            if not wire.get(h.STORED) and rows_first(self.app):
                wire[h.STORED] = 1
                return accept_first(self.app, message, wire, options, partial(send, producer, name, message))
            return send(producer, name, message, headers=wire, **options)

        return send_task_message

    def _asks_again(self, task_id: str) -> bool:
        """Whether the run that is executed here asks for its own next attempt."""
        current = self.app.current_worker_task
        return current is not None and current.request.id == task_id

    def run_headers(self, task_id: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Beatline's headers for a message about to be sent; `given` are those its sender set or copied.

        A task that sends a message under its own id (a retry, a replacement) asks for its next attempt, and the copy of
        its headers is not to be believed.
        """
        now = utc_now()
        attempt, day, stored = given.get(h.ATTEMPT) or 1, given.get(h.DAY), given.get(h.STORED) or 0
        epoch = given.get(h.EPOCH) or 0
        current = self.app.current_worker_task
        if current is not None and current.request.id == task_id:
            attempt, stored = int(current.request.get(h.ATTEMPT) or 1) + 1, 0
            day = current.request.get(h.DAY) or day
        if current is not None and current.request.get(h.FENCE):
            epoch = int(current.request.get(h.FENCE)) >> 32
        return {
            h.V: h.VERSION,
            h.ATTEMPT: int(attempt),
            h.DAY: day or now.date().isoformat(),
            h.EPOCH: int(epoch),
            h.PUBLISHED: now.timestamp(),
            h.STORED: stored,
        }


def unchecked(function: Callable[..., Any], bound: bool = False) -> Any:
    """In place of Celery's check of what a task is called with, whose error names no task: it is made a moment later.

    It looks as Celery's does, which reads from it how a task wants to be called as an errback.
    """

    def any_arguments(*args: Any, **kwargs: Any) -> None:
        del args, kwargs

    if bound:
        return staticmethod(partial(any_arguments))
    head: Any = head_from_fun(function)
    any_arguments.__signature__ = signature(head)  # type: ignore[attr-defined]  # which `inspect` asks for first
    return staticmethod(any_arguments)
