"""How a worker takes a task's message: it claims the attempt first, and only then makes a request of it.

Celery builds a strategy per task and asks the task's `Strategy` for it. Ours stands before Celery's own, which makes
the request, looks at revocation, expiry and time, and hands it to the timer or the pool. Whatever is wrong with a
message, its run ends as dead and the worker goes on.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Any, Final
from uuid import uuid4

from celery.exceptions import InvalidTaskError
from celery.utils.saferepr import saferepr
from celery.worker import strategy as celery_strategy
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from beatline.clock import monotonic_s, utc_now
from beatline.engine import headers as h
from beatline.engine.asking import Known
from beatline.engine.claim import Claimed, Doubted, Dropped, Lease
from beatline.engine.doubt import sent_ms, was_redelivered
from beatline.engine.doubts import Doubtful, doubts_of
from beatline.engine.held import End
from beatline.engine.lease import LeaseKeeper
from beatline.engine.messages import accepted_event, attempt_of, epoch_of, is_run
from beatline.engine.obituary import tell_cancelled
from beatline.engine.orders import Order
from beatline.engine.putting_off import put_off
from beatline.engine.request import ClaimedMessage, Limits, attempt_event
from beatline.engine.worker import keeper_of, settings_of, what_went_wrong
from beatline.errors import NameRefusedError
from beatline.failpoints import reach
from beatline.ledger.events import MESSAGE_LIMIT_BYTES
from beatline.ledger.states import EventKind
from beatline.logs import get_logger
from beatline.names import check_run_id
from beatline.queues.routing import known_queues
from beatline.secrets import mask
from beatline.task.policies import is_marked, mark, parks_when_lost

LATER_S: Final = 0.25
"""How long a message waits whose run's older attempt is still leased, before it goes back to its queue."""
CLAIM_PATIENCE_S: Final = 60.0
"""How long a claim is tried while Redis does not answer: the message lies in no queue then, so giving up costs more."""

_PROCESS: Final = uuid4().hex
_deliveries: Final = itertools.count()

log = get_logger(__name__)
_celery_log = logging.getLogger("celery.worker.strategy")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a message asks for, as its headers say."""

    run_id: str
    task: str
    attempt: int
    day: str
    epoch: int
    queue: str
    accepted: str
    sent_ms: int | None


def leased(task: Any, app: Any, consumer: Any) -> Callable[..., Any]:
    """The strategy of every task of a Beatline app: its handler runs nothing that it has not claimed."""
    inner = celery_strategy.default(task, app, consumer)
    keeper, settings = keeper_of(app), settings_of(app)
    limits = _limits(settings.queues, consumer)
    parks = parks_when_lost(task)
    doubts = doubts_of(app)

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **options: Any) -> Any:
        if keeper.closing:
            return consumer.timer.call_after(LATER_S, reject, (_celery_log, consumer.connection_errors, True))
        if parks:
            mark(message.headers)
        reach("worker.fetched")
        wanted = _read(message)
        known = doubts.known(wanted.run_id, wanted.attempt)
        claimed = _claim(keeper, wanted, consumer.hostname, known)
        message.settled = isinstance(claimed, Lease | Dropped)
        if isinstance(claimed, Lease):
            reach("worker.claimed")
            message._raw["headers"] = message.headers
            claim = ClaimedMessage(claimed, keeper, settings, wanted.queue, limits.get(wanted.queue))
            message.claimed = claim
            if parks and not is_marked(message.headers):
                keeper.park_if_lost(claimed)
            if _bury_if_it_fails(claim, wanted.task, put_off, claim, wanted.task, message):
                log.info("message_put_off", run_id=wanted.run_id, eta=message.headers.get("eta"))
                return ack(_celery_log, consumer.connection_errors)
            return _bury_if_it_fails(claim, wanted.task, inner, message, body, ack, reject, callbacks, **options)
        if isinstance(claimed, Dropped):
            log.info("message_dropped", run_id=wanted.run_id, attempt=wanted.attempt, stands=claimed.stands)
            if known is not None and known.fate == "drop":
                doubts.unlist(wanted.run_id, wanted.queue)
            if claimed.untold:
                tell_cancelled(app, dumps(message._raw), Order.parse(claimed.cancelled).reason)
            return ack(_celery_log, consumer.connection_errors)
        if isinstance(claimed, Doubted):
            message.headers = message._raw["headers"]  # as it came: it is read once more, or goes back to Redis
            again = partial(handle, message, body, ack, reject, callbacks, **options)
            acknowledge = partial(ack, _celery_log, consumer.connection_errors)
            came_from = doubts.list_of(message, wanted.queue)
            doubtful = Doubtful(consumer, message, wanted.run_id, wanted.attempt, came_from, again, acknowledge)
            return doubts.keep(claimed, doubtful)
        log.info("message_waits_for_older_attempt", run_id=wanted.run_id, attempt=wanted.attempt)
        return consumer.timer.call_after(LATER_S, reject, (_celery_log, consumer.connection_errors, True))

    return handle


def _limits(foreign: tuple[str, ...], consumer: Any) -> dict[str, Limits]:
    """The time limits of each queue.

    A prefork worker that serves several queues has the longest of their limits. Then each run gets those of its own
    queue, so that a loop in a short task does not hold a slot for hours; a worker started with other limits keeps them.
    """
    limits = {n: Limits(float(q.hard_limit_s), float(q.soft_limit_s)) for n, q in known_queues(foreign).items()}
    if "prefork" not in type(consumer.pool).__module__:
        return limits
    served = [limits[name].hard_s for name in consumer.app.amqp.queues.consume_from if name in limits]
    return limits if served and consumer.controller.time_limit == max(served) else {}


def _bury_if_it_fails(claim: ClaimedMessage, task: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Make of the message what it asks for. What cannot be made ends the run as dead, and Celery rejects the message."""
    try:
        return call(*args, **options)
    except Exception as exc:
        if claim.keeper.holds(claim.lease):
            dead = attempt_event(
                claim, task, EventKind.DEAD, reason=f"its message cannot be run: {what_went_wrong(exc)}"
            )
            claim.keeper.finish(End(claim.lease, "ended", dead))
        if isinstance(exc, InvalidTaskError | ContentDisallowed | DecodeError):
            raise
        log.exception("message_cannot_be_run", run_id=claim.lease.run_id)
        raise InvalidTaskError(what_went_wrong(exc)) from exc


def _claim(keeper: LeaseKeeper, wanted: _Wanted, worker: str, known: Known | None) -> Claimed:
    if known is not None and known.fate == "drop":
        return Dropped(known.state)
    vouched = known.vouched if known is not None else None
    give_up, token = monotonic_s() + CLAIM_PATIENCE_S, f"{_PROCESS}.{next(_deliveries)}"
    while True:
        try:
            return keeper.claim(
                wanted.run_id, wanted.attempt, worker, wanted.day, wanted.epoch, token, wanted.accepted,
                sent_ms=wanted.sent_ms, vouched=vouched, queue=wanted.queue,
            )  # fmt: skip
        except RedisError as exc:
            if monotonic_s() > give_up:
                raise
            log.warning("claim_waits_for_redis", run_id=wanted.run_id, error=str(exc))
            threading.Event().wait(1.0)


def _read(message: Any) -> _Wanted:
    """What the message asks for. Raises InvalidTaskError if its headers do not say it in a way that can be kept."""
    head = message.headers
    if not is_run(head):
        raise InvalidTaskError("a message of Celery's protocol 1, which has no run id in its headers")
    try:
        sent = sent_ms(head, redelivered=was_redelivered(head, message.delivery_info or {}))
        accepted = "" if head.get(h.V) else _introduce(message)
        return _Wanted(
            run_id=check_run_id(head[h.RUN_ID]),
            task=str(head[h.TASK]),
            attempt=attempt_of(head),
            day=date.fromisoformat(head.get(h.DAY) or utc_now().date().isoformat()).isoformat(),
            epoch=epoch_of(head),
            queue=_queue_of(message),
            accepted=accepted,
            sent_ms=sent,
        )
    except (ValueError, TypeError, KeyError, ArithmeticError, DecodeError, ContentDisallowed, NameRefusedError) as exc:
        raise InvalidTaskError(what_went_wrong(exc)) from exc


def _queue_of(message: Any) -> str:
    """The queue a message came from; with the default exchange its routing key is the queue's name."""
    delivery: dict[str, Any] = message.delivery_info or {}
    return str(delivery.get("routing_key") or "")


def _introduce(message: Any) -> str:
    """The accepted event of a message that no Beatline app sent, and Beatline's headers on the message itself.

    Nobody masked what such a message shows of its arguments, so it is done here.
    """
    args, kwargs, *_ = message.payload
    message.headers = {
        **message.headers,
        h.V: h.VERSION,
        h.ATTEMPT: attempt_of(message.headers),
        h.DAY: utc_now().date().isoformat(),
        "argsrepr": saferepr(mask(args)),
        "kwargsrepr": saferepr(mask(kwargs)),
    }
    raw = {**message._raw, "headers": message.headers}
    payload = dumps(raw)
    event = accepted_event(raw, _queue_of(message), payload)
    if len(payload) > MESSAGE_LIMIT_BYTES:
        log.warning("message_too_large_to_keep", run_id=message.headers[h.RUN_ID], size_bytes=len(payload))
        event = replace(event, message=None)
    return event.to_json()
