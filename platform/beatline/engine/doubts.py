"""What a worker does with a message that Redis's memory cannot vouch for: it waits for PostgreSQL's word, a moment.

A message in doubt holds a slot of the prefetch while its answer comes, which takes milliseconds. Where there is no answer
it is parked in a list beside its own, unclaimed, and the messages behind it go on at their pace: nothing is popped twice
for nothing. The asker brings parked messages back.

The answers are looked at from the consumer's timer. On prefork, threads and solo pools that is the event loop, so it is
the thread that receives messages; on gevent a green thread of its own, which changes nothing between two commands to
Redis. Nobody else touches what waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.utils.json import dumps
from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.engine.asking import BACK_S, Asker, Known, Question
from beatline.engine.claim import Doubted
from beatline.engine.messages import list_key, list_names, parked_key, priority_of
from beatline.engine.seams import StartStopStep
from beatline.engine.worker import installation_of
from beatline.logs import get_logger

if TYPE_CHECKING:
    from beatline.installation import Installation

LOOK_S: Final = 0.02
"""How often it is looked whether an answer has come, while one is waited for."""
PATIENCE_S: Final = 2.0
"""How long a message waits for its answer, and with it a slot of the prefetch."""
FOREIGN_S: Final = 60.0
"""How often it is looked for messages that a worker parked which is no more."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A message in doubt: which attempt it asks for, the list it came from, and how to go on with it."""

    consumer: Any
    message: Any
    run_id: str
    attempt: int
    list_key: str
    again: Callable[[], object]
    acknowledge: Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Waiting:
    doubtful: Doubtful
    epoch: int
    until: float


class Doubts:
    """The messages in doubt of one worker process."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._low_first = installation.settings.priority_order == "low_first"
        self._asker = Asker(installation.settings)
        self._waiting: dict[str, _Waiting] = {}
        self._timer: Any = None
        self._looks = False

    def known(self, run_id: str, attempt: int) -> Known | None:
        """What PostgreSQL said of an attempt lately."""
        return self._asker.known(run_id, attempt)

    def list_of(self, message: Any, queue: str) -> str:
        """The full key of the list that a message came from."""
        priority = priority_of(message.properties) or 0
        return list_key(self._installation.keys, queue, priority, low_first=self._low_first)

    def unlist(self, run_id: str, queue: str) -> None:
        """A message was dropped by PostgreSQL's word, without a claim that would have taken it out of its queue's index."""
        with suppress(RedisError):  # the reconciler finds it there
            self._installation.redis.zrem(self._installation.keys.index(queue), run_id)

    def keep(self, doubted: Doubted, doubtful: Doubtful) -> None:
        """Go on with the message when PostgreSQL has said what becomes of it; park it if it does not say."""
        if doubted.hold_s:
            self._park(doubtful, doubted.hold_s)
        elif self._asker.away:
            self._park(doubtful)
        else:
            self._wait(_Waiting(doubtful, doubted.epoch, monotonic_s() + PATIENCE_S))
            self._asker.ask(Question(doubtful.run_id, doubted.epoch, doubtful.list_key, doubted.before_ms))

    def start(self, timer: Any, queues: list[str]) -> Any:
        """Messages are received from now on. The timer's entry that looks for what others have parked."""
        self._timer, self._looks = timer, False
        keys = self._installation.keys
        lists = [keys.queue(name) for queue in queues for name in list_names(queue)]
        self._look_for_parked(lists)
        return timer.call_repeatedly(FOREIGN_S, self._look_for_parked, (lists,))

    def forget(self) -> None:
        """The connection is gone, and what waits with it: the broker puts it back."""
        self._timer = None
        self._waiting.clear()

    def _wait(self, waiting: _Waiting) -> None:
        self._waiting[waiting.doubtful.message.delivery_tag] = waiting
        if not self._looks and self._timer is not None:
            self._looks = True
            self._timer.call_after(LOOK_S, self._look, (self._timer,))

    def _look(self, timer: Any) -> None:
        if timer is not self._timer:
            return  # the worker stops
        for tag in tuple(self._waiting):
            waiting = self._waiting.pop(tag, None)
            if waiting is not None:
                try:
                    self._look_at(waiting)
                except Exception:  # Celery's timer would drop it, and with it everybody's next look
                    log.exception("doubtful_message_waits", run_id=waiting.doubtful.run_id)
                    self._waiting[tag] = waiting
        self._looks = bool(self._waiting)
        if self._looks:
            timer.call_after(LOOK_S, self._look, (timer,))

    def _look_at(self, waiting: _Waiting) -> None:
        doubtful = waiting.doubtful
        known = self._asker.known(doubtful.run_id, doubtful.attempt)
        if known is not None and (known.fate == "drop" or known.vouched.epoch == waiting.epoch):
            _go_on(doubtful)
        elif self._asker.away:
            self._park(doubtful)
        elif monotonic_s() > waiting.until:
            self._asker.give_up()
            self._park(doubtful)
        else:
            self._waiting[doubtful.message.delivery_tag] = waiting

    def _park(self, doubtful: Doubtful, after_s: float = 0.0) -> None:
        """Put the message beside its list, and let it go here. A crash in between doubles it, and the claim drops one."""
        message = doubtful.message
        try:
            self._installation.redis.lpush(parked_key(doubtful.list_key), dumps(message._raw))
        except RedisError as exc:
            log.warning("message_cannot_be_parked", run_id=doubtful.run_id, error=str(exc))
            self._wait(_Waiting(doubtful, 0, monotonic_s() + BACK_S))
            return
        message.settled = True
        message.channel.qos.unbook(message)
        doubtful.acknowledge()
        self._asker.bring_back(doubtful.list_key, after_s)

    def _look_for_parked(self, lists: list[str]) -> None:
        try:
            with self._installation.redis.pipeline(transaction=False) as pipe:
                for key in lists:
                    pipe.exists(parked_key(key))
                found = [key for key, there in zip(lists, pipe.execute(), strict=True) if there]
        except RedisError as exc:
            log.warning("parked_messages_not_looked_for", error=str(exc))
            return
        for key in found:
            self._asker.bring_back(key, BACK_S)


def _go_on(doubtful: Doubtful) -> None:
    """As the consumer does with a message that has just come, and with one that nobody can read."""
    consumer, message = doubtful.consumer, doubtful.message
    try:
        doubtful.again()
    except (InvalidTaskError, ContentDisallowed) as exc:
        consumer.on_invalid_task(None, message, exc)
    except DecodeError as exc:
        consumer.on_decode_error(message, exc)
    if message.settled:
        message.channel.qos.unbook(message)


_doubts: dict[tuple[int, int], Doubts] = {}


def doubts_of(app: Any) -> Doubts:
    """The messages in doubt of this process's worker of an app; made when first asked for."""
    key = (os.getpid(), id(app))
    doubts = _doubts.get(key)
    if doubts is None:
        doubts = _doubts[key] = Doubts(installation_of(app))
    return doubts


class Doubting(StartStopStep):
    """A step of the consumer: what is in doubt waits as long as the connection it came over."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._looking: Any = None

    def include_if(self, parent: Any) -> bool:
        """Every worker of a Beatline app has it."""
        return True

    def start(self, parent: Any) -> None:
        """Begin to look after messages in doubt."""
        self._looking = doubts_of(parent.app).start(parent.timer, list(parent.app.amqp.queues.consume_from))

    def stop(self, parent: Any) -> None:
        """The connection was lost, or the worker stops."""
        doubts_of(parent.app).forget()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
