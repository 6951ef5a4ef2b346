"""kombu's Redis transport, where publishing a task and telling the ledger of it are one transaction.

It also turns the sense of priorities in the one place where a message meets its list: 9 goes first, and a message keeps
the number its sender gave, so that retries and chains, which copy it, do not turn it twice.
"""

from __future__ import annotations

from typing import Any

from kombu.utils.json import dumps

from beatline.engine import headers as h
from beatline.engine import seams
from beatline.engine.messages import MAX_PRIORITY, accepted_event, check_size, is_run
from beatline.ledger.events import FIELD, Event
from beatline.ledger.states import EventKind


class Channel(seams.Channel):
    """A channel that publishes a task's message and its ledger event together.

    Without the transport option `beatline_events` (the key of the ledger's stream) it refuses to publish.
    """

    beatline_events: str = ""
    beatline_low_first: bool = False
    known_epoch: int = 0

    from_transport_options = (
        *seams.Channel.from_transport_options,
        "beatline_events",
        "beatline_low_first",
    )

    def _get_message_priority(self, message: dict[str, Any], reverse: bool = False) -> int:
        given: int = super()._get_message_priority(message, reverse=reverse)
        return given if self.beatline_low_first else MAX_PRIORITY - given

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if not is_run(message.get("headers")) or message["headers"].get(h.V) is None:
            super()._put(queue, message, **kwargs)
            return
        payload: str = dumps(message)
        check_size(message["headers"][h.TASK], payload)
        event = _event_of(message, queue, payload).to_json()
        list_name = self._q_for_pri(queue, self._get_message_priority(message))
        batch = kwargs.pop("_publish_batch", None)
        if batch is not None:
            batch.add("xadd", self.beatline_events, {FIELD: event})
            batch.add("lpush", list_name, payload)
            return
        with self.conn_or_acquire() as client, client.pipeline(transaction=True) as pipe:
            # kombu prefixes the list's key, but not a stream's: `beatline_events` is the full key.
            pipe.lpush(list_name, payload)
            pipe.xadd(self.beatline_events, {FIELD: event})
            pipe.execute()


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
