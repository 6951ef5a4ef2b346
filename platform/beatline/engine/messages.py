"""Messages as they lie in a queue's Redis list: made, read, and asked for once more.

The format is kombu's virtual transport with Celery's protocol 2; headers.py has what Beatline adds. A contract test
compares `new_message` with what Celery itself publishes.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from beatline.clock import utc_now
from beatline.engine import headers as h
from beatline.engine.doubt import LATEST_S
from beatline.errors import BeatlineError, MessageTooLargeError
from beatline.ledger.events import MESSAGE_LIMIT_BYTES, SHOWN_CHARS, Event, storable
from beatline.ledger.states import EventKind
from beatline.names import Keys

MAX_PRIORITY: Final = 9
_INT32: Final = 2**31 - 1
"""The highest number of an attempt that PostgreSQL has room for; and beyond 2**53 a number changes in Redis's scripts."""
STEPS: Final = (0, 3, 6, 9)
"""kombu's priority steps: one list each; its list 0 is read first."""
SEPARATOR: Final = "\x06\x16"
_PARKED: Final = f"{SEPARATOR}parked"


def check_priority(priority: object) -> int | None:
    """The priority that a sender gave, or None. Raises BeatlineError if it is none; kombu would guess what is meant."""
    if priority is None:
        return None
    if isinstance(priority, int) and not isinstance(priority, bool) and 0 <= priority <= MAX_PRIORITY:
        return priority
    raise BeatlineError(
        f"priority={priority!r:.40} is none: give a whole number from 0 to {MAX_PRIORITY}. Nothing was sent."
    )


def priority_of(properties: Mapping[str, Any]) -> int | None:
    """A message's priority as kombu understands it, whoever wrote it; None for what is none."""
    try:
        return max(0, min(MAX_PRIORITY, int(properties["priority"])))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def step_of(priority: int, *, low_first: bool = False) -> int:
    """The step of the list that a message of this priority goes to: 9 goes first, unless `low_first` (kombu's sense)."""
    level = max(0, min(MAX_PRIORITY, priority))
    return STEPS[bisect(STEPS, level if low_first else MAX_PRIORITY - level) - 1]


def list_names(queue: str) -> tuple[str, ...]:
    """The names of all lists of a queue, the first read first; without the installation's prefix."""
    return tuple(f"{queue}{SEPARATOR}{step}" if step else queue for step in STEPS)


def list_key(keys: Keys, queue: str, priority: int, *, low_first: bool = False) -> str:
    """The full Redis key of the list that a message of this priority goes to."""
    step = step_of(priority, low_first=low_first)
    return keys.queue(f"{queue}{SEPARATOR}{step}" if step else queue)


def index_of(keys: Keys, list_key: str) -> str:
    """The full Redis key of the index of the queue that this list belongs to."""
    return keys.index(list_key.removeprefix(keys.prefix).partition(SEPARATOR)[0])


def parked_key(list_key: str) -> str:
    """Beside a list of a queue: the one that holds what cannot be claimed before PostgreSQL answers. Nobody pops from it.

    It is one of the queue's lists, and the newest message is at the left in it too.
    """
    return f"{list_key}{_PARKED}"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message with what publishing it needs to know; `payload` is the JSON that goes into the list."""

    run_id: str
    attempt: int
    day: str
    task: str
    queue: str
    priority: int
    payload: str

    @classmethod
    def parse(cls, payload: str | bytes) -> StoredMessage:
        """Read a message. Raises ValueError if it is none, or not one of Beatline's."""
        text = payload.decode() if isinstance(payload, bytes) else payload
        return cls.of(json.loads(text), text)

    @classmethod
    def of(cls, message: Any, payload: str) -> StoredMessage:
        """The message that was read from, or is written as, this payload. Raises ValueError as `parse` does."""
        try:
            head, properties = message["headers"], message["properties"]
            return cls(
                run_id=str(head[h.RUN_ID]),
                attempt=int(head[h.ATTEMPT]),
                day=str(head[h.DAY]),
                task=str(head[h.TASK]),
                queue=str(properties["delivery_info"]["routing_key"]),
                priority=priority_of(properties) or 0,
                payload=payload,
            )
        except (KeyError, TypeError, OverflowError) as exc:
            raise ValueError(f"not a message of Beatline's: {exc!r}") from exc

    def queued_event(self, worker: str | None = None) -> Event:
        """What the ledger is told when this message has been put into its queue."""
        return Event(
            kind=EventKind.QUEUED,
            run_id=self.run_id,
            attempt=self.attempt,
            day=self.day,
            at=utc_now().timestamp(),
            task=self.task,
            queue=self.queue,
            worker=worker,
        )


def next_attempt(payload: str | bytes, attempt: int, epoch: int = 0) -> StoredMessage:
    """The same message, asking for another attempt of its run. Raises ValueError if it is no message of Beatline's."""
    message = json.loads(payload)
    if not isinstance(message, dict) or not {"headers", "properties"} <= message.keys():
        raise ValueError("not a message of Beatline's: it has no headers or properties")
    message["headers"] |= {h.ATTEMPT: attempt, h.EPOCH: epoch, h.PUBLISHED: utc_now().timestamp(), h.STORED: 1}
    message["properties"] |= {"delivery_tag": str(uuid4())}
    return StoredMessage.parse(json.dumps(message))


def parks(payload: str | bytes | None) -> bool:
    """Whether a message says that its run is parked if it is lost after it began; what is no message says nothing."""
    try:
        return bool(json.loads(payload or "")["headers"].get(h.ON_LOST) == "dead")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def new_message(
    headers: Mapping[str, Any], body: tuple[str, str, bytes | str], properties: Mapping[str, Any], queue: str
) -> StoredMessage:
    """The message that Celery's headers and a serialised body (content type, encoding, text) make for a queue.

    Raises MessageTooLargeError.
    """
    content_type, encoding, text = body
    raw = text.encode() if isinstance(text, str) else text
    message = {
        "body": base64.b64encode(raw).decode("ascii"),
        "content-encoding": encoding,
        "content-type": content_type,
        "headers": dict(headers),
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
            **properties,
        },
    }
    payload = json.dumps(message)
    check_size(str(headers[h.TASK]), payload)
    return StoredMessage.of(message, payload)


def check_size(task: str, payload: str) -> None:
    """Raises MessageTooLargeError if a message is over what is accepted."""
    size = len(payload) if payload.isascii() else len(payload.encode())
    if size > MESSAGE_LIMIT_BYTES:
        raise MessageTooLargeError(task, size, MESSAGE_LIMIT_BYTES)


def accepted_event(message: Mapping[str, Any], queue: str, payload: str) -> Event:
    """What the ledger is told of a message that was accepted and queued in one step: all of it."""
    head: Mapping[str, Any] = message["headers"]
    properties: Mapping[str, Any] = message["properties"]
    return Event(
        kind=EventKind.ACCEPTED,
        queued=True,
        run_id=head[h.RUN_ID],
        attempt=attempt_of(head),
        day=head.get(h.DAY) or utc_now().date().isoformat(),
        at=_sent_at(head),
        task=head[h.TASK],
        queue=queue,
        args_shown=_shown(head.get("argsrepr")),
        kwargs_shown=_shown(head.get("kwargsrepr")),
        priority=priority_of(properties),
        schedule=head.get(h.SCHEDULE),
        slot=head.get(h.SLOT),
        root_id=head.get("root_id"),
        parent_id=head.get("parent_id"),
        eta=head.get("eta"),
        expires=head.get("expires"),
        message=payload,
    )


def delayed_event(message: Mapping[str, Any], queue: str, payload: str) -> Event:
    """What the ledger is told of a message that is put into no queue, but waits there for its `eta`: all of it."""
    return replace(accepted_event(message, queue, payload), queued=None, delayed=True)


def now_ms() -> int:
    """What the index of a queue says of a message that is put there now: the time, by this machine's clock."""
    return int(utc_now().timestamp() * 1000)


def attempt_of(head: Mapping[str, Any]) -> int:
    """Which attempt a message asks for; a stock producer's is told by its count of retries.

    Raises ValueError or TypeError if that is no number an attempt can have.
    """
    if head.get(h.ATTEMPT):
        return _whole(h.ATTEMPT, head[h.ATTEMPT], 1)
    return _whole("retries", head.get("retries") or 0, 0, _INT32 - 1) + 1


def epoch_of(head: Mapping[str, Any]) -> int:
    """The epoch a message's sender knew, 0 if none. Raises ValueError or TypeError if it is no number of one."""
    return _whole(h.EPOCH, head.get(h.EPOCH) or 0, 0)


def is_run(head: object) -> bool:
    """Whether these are the headers of a task's message, and not of remote control or of an event."""
    return isinstance(head, Mapping) and h.RUN_ID in head and h.TASK in head


def _whole(name: str, said: Any, least: int, most: int = _INT32) -> int:
    # JSON knows no infinity, but Python reads one from 1e999.
    try:
        number = int(said)
    except OverflowError as exc:
        raise ValueError(f"{name} is no number") from exc
    if not least <= number <= most:
        raise ValueError(f"{name} is no whole number from {least} to {most}")
    return number


def _sent_at(head: Mapping[str, Any]) -> float:
    said = head.get(h.PUBLISHED) or utc_now().timestamp()
    if type(said) not in (int, float) or not 0 <= said <= LATEST_S:
        raise ValueError(f"{h.PUBLISHED} is no time")
    return float(said)


def _shown(text: object) -> str | None:
    return None if text is None else storable(str(text), SHOWN_CHARS)
