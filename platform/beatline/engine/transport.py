"""kombu's Redis transport, where publishing a task and telling the ledger of it are one transaction.

A task that is wanted much later is not published: the ledger alone is told, and sends it when it is due (see `delay`).

It also turns the sense of priorities in the one place where a message meets its list: 9 goes first, and a message keeps
the number its sender gave, so that retries and chains, which copy it, do not turn it twice.

And it books deliveries only where nothing else answers for them. kombu keeps each delivered message a second time in
Redis until it is acknowledged, and delivers it anew after a time-out, whether its task still runs or not. A claimed
message needs neither: its lease tells that it is being worked on, and the ledger has its text.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from typing import Any, Final

import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine import seams, unreadable
from beatline.engine.claim import script_source
from beatline.engine.delay import waits
from beatline.engine.given_ids import is_to_be_new, taken
from beatline.engine.hurry import hurrying, sent_once
from beatline.engine.messages import (
    MAX_PRIORITY,
    accepted_event,
    check_size,
    delayed_event,
    is_run,
    now_ms,
    parked_key,
)
from beatline.failpoints import reach
from beatline.ledger.events import FIELD, Event
from beatline.ledger.states import EventKind
from beatline.logs import get_logger
from beatline.names import Keys, index_name

log = get_logger(__name__)

SETTLED: Final = "settled"
"""The attribute of a message that needs no booking: its attempt was claimed, or is not to run."""


class QoS(seams.RedisQoS):
    """kombu's book of deliveries, in Redis only for those that stay open without a lease."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._unbooked: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count the message as delivered; whether it is booked too is known once its consumer has looked at it."""
        seams.VirtualQoS.append(self, message, delivery_tag)
        self._unbooked.add(delivery_tag)

    def settle(self, message: Any) -> None:
        """Book a message that its consumer keeps without having claimed it."""
        tag = message.delivery_tag
        if tag in self._unbooked and not getattr(message, SETTLED, False):
            self._unbooked.discard(tag)
            super().append(message, tag)

    def unbook(self, message: Any) -> None:
        """Take a message out of the book: it was booked while nobody knew whether it may run, and is settled now."""
        tag = message.delivery_tag
        if tag in self._delivered and tag not in self._dirty and tag not in self._unbooked:
            self._remove_from_indices(tag).execute()
            self._unbooked.add(tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; what was never booked costs no round trip, and what a closed channel had is booked no more."""
        if delivery_tag in self._unbooked or self._is_closed:
            self._unbooked.discard(delivery_tag)
            seams.VirtualQoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject; a claimed message was given back by its request, if it is to be tried again."""
        if requeue and delivery_tag in self._unbooked and not self._is_closed:
            self.settle(self._delivered[delivery_tag])
        if delivery_tag in self._unbooked or self._is_closed:
            self.ack(delivery_tag)
        else:
            super().reject(delivery_tag, requeue)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what nobody has claimed. What is leased is put back by the reconciler.

        So is what a connection that is closed already can put back no more.
        """
        if self._is_closed:
            self._unbooked.clear()
            self._delivered.clear()
            return
        for tag in tuple(self._unbooked):
            message = self._delivered.get(tag)
            if message is not None:
                self.settle(message)
        for tag in self._unbooked:
            self._delivered.pop(tag, None)
        self._unbooked.clear()
        if self._delivered:
            super().restore_unacked(client)

    @property
    def _is_closed(self) -> bool:
        """Whether its connection was lost, so that Redis cannot be reached through it any more."""
        connection = self.channel.connection
        return connection is None or connection.client is None


class Channel(seams.Channel):
    """A channel that publishes a task's message and its ledger event together.

    Without the transport option `beatline_events` (the key of the ledger's stream) it refuses to publish.
    """

    QoS = QoS
    Message = unreadable.Message

    # A caller of `.delay()` waits for what goes over these; a worker that consumes is in no hurry.
    connection_class = hurrying(redis.Connection)
    connection_class_ssl = hurrying(redis.SSLConnection)

    beatline_events: str = ""
    beatline_low_first: bool = False
    known_epoch: int = 0

    from_transport_options = (
        *seams.Channel.from_transport_options,
        "beatline_events",
        "beatline_low_first",
    )

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
    ) -> Any:
        """Consume; a delivery is booked after its consumer has looked at it, unless that claimed it."""

        def settle(message: Any) -> Any:
            try:
                return callback(message)
            finally:
                self.qos.settle(message)

        return super().basic_consume(queue, no_ack, callback if no_ack else settle, consumer_tag, **options)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        """One message, booked at once: who fetches by hand claims nothing."""
        message = super().basic_get(queue, no_ack=no_ack, **options)
        if message is not None and not no_ack:
            self.qos.settle(message)
        return message

    def _brpop_read(self, **options: Any) -> bool:
        """kombu's own, step by step, but what was popped and is no message is refused instead of raising."""
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()  # so that the next round makes it anew
                raise
            if not answer:
                raise Empty
            list_name, item = answer
            queue: str = bytes_to_str(list_name).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            try:
                self.connection._deliver(unreadable.read(item), queue)
            except unreadable.UnreadableError as exc:
                self._refuse(item, queue, str(exc))
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        try:
            return super()._deliver_fanout_message(message, exchange)
        except unreadable.UnreadableError as exc:  # remote control, which nobody keeps
            log.error("broadcast_refused", exchange=exchange, reason=str(exc))
            return True

    def _refuse(self, item: bytes | str, queue: str, reason: str) -> None:
        """Tell the ledger of what is no message, for it lies nowhere any more; never raises on Redis's account."""
        size = len(item)
        log.error("message_unreadable", queue=queue, size_bytes=size, reason=reason)
        try:
            with self.conn_or_acquire() as client:
                client.xadd(self.beatline_events, {FIELD: unreadable.entry(item, queue, reason)})
        except (RedisError, OSError) as exc:
            log.error("unreadable_message_not_kept", queue=queue, size_bytes=size, error=str(exc))

    def _get_message_priority(self, message: dict[str, Any], reverse: bool = False) -> int:
        try:
            given: int = super()._get_message_priority(message, reverse=reverse)
        except OverflowError:  # an infinite one
            given = 0
        return given if self.beatline_low_first else MAX_PRIORITY - given

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if not is_run(message.get("headers")) or message["headers"].get(h.V) is None:
            super()._put(queue, message, **kwargs)
            return
        if message["headers"].pop(h.COMMIT, None):
            from beatline.engine.strict import commit_next  # only the retry of a strict task comes here

            commit_next(message, queue)
        payload: str = dumps(message)
        check_size(message["headers"][h.TASK], payload)
        batch = kwargs.pop("_publish_batch", None)
        if batch is None and not message["headers"].get(h.STORED) and is_to_be_new():
            self._put_new(message, queue, payload)
            return
        if waits(message["headers"].get("eta"), utc_now()):
            self._delay(message, queue, payload, batch)
            return
        event = _event_of(message, queue, payload).to_json()
        list_name = self._q_for_pri(queue, self._get_message_priority(message))
        indexed = {message["headers"][h.RUN_ID]: now_ms()}
        if batch is not None:
            batch.add("xadd", self.beatline_events, {FIELD: event})
            batch.add("zadd", index_name(queue), indexed)
            batch.add("lpush", list_name, payload)
            return
        with self.conn_or_acquire() as client, client.pipeline(transaction=True) as pipe:
            # kombu prefixes the keys of a list and an index, but not a stream's: `beatline_events` is the full key.
            pipe.lpush(list_name, payload)
            pipe.xadd(self.beatline_events, {FIELD: event})
            pipe.zadd(index_name(queue), indexed)
            reach("publish.sending")
            pipe.execute()
        reach("publish.sent")

    def _purge(self, queue: str) -> int:
        """Empty the queue, what waits for PostgreSQL's word in it too, and its index.

        What Beatline accepted is not gone: the reconciler finds it in no queue, and sends it again.
        """
        lists = [self._q_for_pri(queue, step) for step in self.priority_steps]
        lists += [parked_key(name) for name in lists]
        with self.conn_or_acquire() as client, client.pipeline(transaction=True) as pipe:
            for name in lists:
                pipe.llen(name)
            pipe.delete(*lists, index_name(queue))
            *sizes, _ = pipe.execute()
        return sum(map(int, sizes))

    def _put_new(self, message: dict[str, Any], queue: str, payload: str) -> None:
        """Publish, or delay, a run whose id its caller gave. Raises ConflictError if it is taken: nothing was sent."""
        later = waits(message["headers"].get("eta"), utc_now())
        event = (delayed_event if later else _event_of)(message, queue, payload)
        keys, run_id = Keys(self.global_keyprefix), message["headers"][h.RUN_ID]
        list_name = self._q_for_pri(queue, self._get_message_priority(message))
        reach("publish.sending")
        with self.conn_or_acquire() as client, sent_once():
            # kombu prefixes the first key of a script, and no other.
            published = client.register_script(script_source("publish_new"))(
                [list_name, self.beatline_events, keys.index(queue), keys.run(run_id)],
                [run_id, event.to_json(), now_ms(), "" if later else payload],
            )
        reach("publish.sent")
        if not published:
            raise taken(run_id)

    def _delay(self, message: dict[str, Any], queue: str, payload: str, batch: Any) -> None:
        """Tell the ledger alone: it sends the message when it is due. One that is stored waits there already."""
        if message["headers"].get(h.STORED):
            return
        event = delayed_event(message, queue, payload).to_json()
        if batch is not None:
            batch.add("xadd", self.beatline_events, {FIELD: event})
            return
        with self.conn_or_acquire() as client:
            client.xadd(self.beatline_events, {FIELD: event})


def _event_of(message: dict[str, Any], queue: str, payload: str) -> Event:
    event = accepted_event(message, queue, payload)
    if not message["headers"].get(h.STORED):
        return event
    return Event(
        kind=EventKind.QUEUED,
        run_id=event.run_id,
        attempt=event.attempt,
        day=event.day,
        at=event.at,
        task=event.task,
        queue=event.queue,
    )


class Connection(seams.Connection):
    """A connection that names itself by its URL's scheme instead of by our transport's path, as Flower expects."""

    def as_uri(self, include_password: bool = False, **options: Any) -> str:
        """The URL of the broker, its password masked unless asked for."""
        uri = super().as_uri(include_password=include_password, **options)
        return f"{'rediss' if self.ssl else 'redis'}://{uri.partition('://')[2]}"


class Transport(seams.Transport):
    """The transport that `broker_transport` names; URLs stay `redis://` and `rediss://`."""

    Channel = Channel
