"""Asks PostgreSQL about runs that Redis cannot vouch for, from a thread of its own: a worker's loop never waits for it.

Whoever asks about one message is told about the doubtful ones behind it in its list too, so that a backlog of another
epoch costs a query for every five hundred. While PostgreSQL does not answer, messages are parked beside their lists; this
thread brings them back once it does, whichever worker parked them.
"""

from __future__ import annotations

import json
from _queue import Empty, SimpleQueue  # under gevent the queue module's own wakes no native thread
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.engine import headers as h
from beatline.engine.doubt import DOUBTED_AGE_MS, Fate, Standing, Vouched, fate_of, sent_ms, was_redelivered
from beatline.engine.messages import epoch_of, parked_key
from beatline.installation import connect_redis
from beatline.logs import get_logger
from beatline.native import start_native
from beatline.secrets import mask_urls

if TYPE_CHECKING:
    from beatline.settings import Settings

BATCH: Final = 500
PEEK: Final = 50
PEEK_BYTES: Final = 4 * 1024 * 1024
"""How much of a list is read at most to fill a batch: messages may have 256 KB."""
ANSWER_S: Final = 600.0
"""How long an answer counts. What happens to a run after it is in Redis's memory, which is longer."""
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
BACK_S: Final = 1.0
"""What was parked comes back at most so often."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """About a message from a list, in an epoch; all that was sent before `before_ms` is as doubtful."""

    run_id: str
    epoch: int
    list_key: str
    before_ms: int


class Known(NamedTuple):
    """What becomes of a message, PostgreSQL's word on its attempt, and the state of the run there."""

    fate: Fate
    vouched: Vouched
    state: str


@dataclass(frozen=True, slots=True)
class _Answer:
    epoch: int
    standing: Standing | None
    until: float


class _BehindError(Exception):
    """PostgreSQL answers, but lacks what Redis has forgotten already: its word says nothing."""


class Asker:
    """One worker process's way to PostgreSQL. Its thread starts when it is first needed.

    The loop calls `known`, `ask`, `give_up` and `bring_back`; none of them waits. What they and the thread share are
    single assignments and operations on one dict or queue, which are atomic: no lock that a green thread could hold.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inbox: SimpleQueue[Question | None] = SimpleQueue()
        self._answers: dict[str, _Answer] = {}
        self._parked: dict[str, float] = {}
        self._started = False
        self._pause_s = 0.0
        self._engine: Any = None
        self._standings: Any = None
        self._measure: Any = None

    @property
    def away(self) -> bool:
        """Whether PostgreSQL did not answer when it was last asked."""
        return self._pause_s > 0

    def known(self, run_id: str, attempt: int) -> Known | None:
        """What PostgreSQL said of an attempt lately."""
        answer = self._answers.get(run_id)
        if answer is None or monotonic_s() > answer.until:
            return None
        fate = fate_of(answer.standing, attempt)
        state = answer.standing.state if answer.standing else ""
        return Known(fate, Vouched(answer.epoch, running=fate == "wait"), state)

    def ask(self, question: Question) -> None:
        """Have it answered soon: `known` tells, or `away`."""
        self._inbox.put(question)
        self._start()

    def give_up(self) -> None:
        """Its answer takes too long. It may come yet."""
        self._say_away("it does not answer in time")
        self._inbox.put(None)  # should it have answered at this moment: it is asked whether it does

    def bring_back(self, list_key: str, after_s: float = 0.0) -> None:
        """There are parked messages of this list: put them back when PostgreSQL answers, and not before `after_s`."""
        self._parked[list_key] = monotonic_s() + after_s
        self._inbox.put(None)
        self._start()

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        # Not in the thread: a child that is forked in the middle of an import has half a module, for good.
        from beatline.ledger.database import open_engine
        from beatline.ledger.standing import standings
        from beatline.ledger.stream import measure

        self._engine = open_engine(self._settings, quick=True)
        self._standings, self._measure = standings, measure
        start_native(self._run, "beatline-asks")

    def _run(self) -> None:
        redis = connect_redis(self._settings.redis_url)
        probe_at = 0.0
        while True:
            questions = self._take(self._wait_s(probe_at))
            try:
                if questions or (self.away and monotonic_s() >= probe_at):
                    self._answer(redis, questions)
                if not self.away:
                    self._return_parked(redis)
            except RedisError:
                # The loop speaks of it, and what waits is forgotten with its connection.
                probe_at = monotonic_s() + LONGEST_PAUSE_S
            except Exception as exc:  # noqa: BLE001  # this thread must outlive what nobody foresaw
                self._say_away(f"{type(exc).__name__}: {getattr(exc, 'orig', None) or exc}")
                probe_at = monotonic_s() + self._pause_s
                self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)

    def _wait_s(self, probe_at: float) -> float | None:
        if self.away:
            return max(0.0, probe_at - monotonic_s())
        dues = tuple(self._parked.values())  # copied in one step: the loop may add to them
        return max(0.0, min(dues) - monotonic_s()) if dues else None

    def _take(self, wait_s: float | None) -> list[Question]:
        questions: list[Question] = []
        try:
            first = self._inbox.get(timeout=wait_s)
            questions += [first] if first else []
            while len(questions) < BATCH:
                following = self._inbox.get_nowait()
                questions += [following] if following else []
        except Empty:
            pass
        return questions

    def _answer(self, redis: Any, questions: Sequence[Question]) -> None:
        """One query for these and what stands behind them; for none, only to see whether there is an answer."""
        wanted = {question.run_id: question for question in questions}
        for question in {question.list_key: question for question in questions}.values():
            for run_id in _behind(redis, question):
                known = self._answers.get(run_id)
                if len(wanted) < BATCH and (known is None or known.epoch != question.epoch):
                    wanted.setdefault(run_id, question)
        lag = self._measure(redis, self._settings.keys)
        if lag.lag_s * 1000 > DOUBTED_AGE_MS:
            raise _BehindError(f"it is {lag.lag_s / 3600:.0f} h behind: is a recorder running?")
        with self._engine.connect() as conn:
            found = self._standings(conn, list(wanted))
        self._say_back()
        until = monotonic_s() + ANSWER_S
        self._answers = {
            **{run_id: answer for run_id, answer in tuple(self._answers.items()) if answer.until > monotonic_s()},
            **{run_id: _Answer(one.epoch, found.get(run_id), until) for run_id, one in wanted.items()},
        }
        if wanted:
            log.info("asked_postgresql", runs=len(wanted), waiting=len(questions), known=len(found))

    def _return_parked(self, redis: Any) -> None:
        for list_key, due in tuple(self._parked.items()):
            if due <= monotonic_s():
                self._parked.pop(list_key, None)  # first: one that is parked from now on is noted anew
                try:
                    returned = _return(redis, list_key)
                except RedisError:
                    self._parked[list_key] = monotonic_s() + BACK_S
                    raise
                if returned:
                    log.info("parked_messages_returned", list=list_key, count=returned)

    def _say_away(self, reason: str) -> None:
        if not self.away:
            said = mask_urls(reason.strip().partition("\n")[0])
            log.warning("doubtful_messages_wait", reason=said, then="stay in their queue until PostgreSQL answers")
            self._pause_s = FIRST_PAUSE_S

    def _say_back(self) -> None:
        if self.away:
            self._pause_s = 0.0
            log.info("doubtful_messages_go_on")


def _behind(redis: Any, question: Question) -> Iterator[str]:
    """The runs of the messages that are popped next, as long as they are as doubtful as the one that is asked about."""
    size, at = 0, 0
    while size < PEEK_BYTES and at < BATCH:
        payloads: list[str] = redis.lrange(question.list_key, -at - PEEK, -at - 1)
        doubtful = list(_doubtful(payloads, question))
        yield from doubtful
        if not doubtful:
            return
        size += sum(map(len, payloads))
        at += PEEK


def _doubtful(payloads: Iterable[str], question: Question) -> Iterator[str]:
    for payload in payloads:
        try:
            message = json.loads(payload)
            head = message["headers"]
            sent = sent_ms(head, redelivered=was_redelivered(head, message["properties"]["delivery_info"]))
            epoch = epoch_of(head)
            if sent is not None and (sent < question.before_ms or epoch not in (0, question.epoch)):
                yield str(head[h.RUN_ID])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # its claim will say what is wrong with it


def _return(redis: Any, list_key: str) -> int:
    """Put what was parked back where it was: at the end that is popped next, the oldest first."""
    returned = 0
    while True:
        with redis.pipeline(transaction=False) as pipe:
            for _ in range(PEEK):
                pipe.lmove(parked_key(list_key), list_key, "LEFT", "RIGHT")
            moved = sum(one is not None for one in pipe.execute())
        returned += moved
        if moved < PEEK:
            return returned
