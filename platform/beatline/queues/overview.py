"""Every queue at this moment: what waits in Redis, what PostgreSQL knows to be open, and who serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import text

from beatline.clock import utc_now
from beatline.ledger.history import Open, open_runs
from beatline.ledger.states import RunState
from beatline.ledger.stream import Lag, measure
from beatline.ledger.suspects import Suspects, lost_suspects
from beatline.queues.census import Worker, lengths, unacknowledged, workers
from beatline.queues.pausing import Pause, paused
from beatline.queues.routing import known_queues

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue now: messages that wait in Redis, runs that PostgreSQL knows to be open, and the workers that serve it."""

    queue: str
    waiting: int
    oldest_s: float | None
    running: int
    delayed: int
    retrying: int
    workers: int
    slots: int
    purpose: str
    paused_since: datetime | None = None
    paused_by: str | None = None
    pause_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """All queues, how many messages are taken and not acknowledged, how far history is behind, and the open runs that
    are nowhere: none at rest."""

    queues: tuple[QueueLine, ...]
    unacknowledged: int
    ledger: Lag
    lost_suspects: Suspects


def ask_workers(installation: Installation, app: Celery) -> list[Worker]:
    """The workers of an installation. Raises redis.RedisError if Redis does not answer."""
    installation.redis.ping()  # before Celery, which would try again for longer than a person waits
    return workers(app, installation.redis, installation.keys)


def overview(installation: Installation, app: Celery) -> Overview:
    """Every queue, declared ones included. Raises the errors of Redis and of PostgreSQL."""
    queues = known_queues(installation.settings.queues)
    lag = measure(installation.redis, installation.keys)
    waiting = lengths(installation.redis, installation.keys, queues)
    taken = unacknowledged(installation.redis, installation.keys)
    serving = ask_workers(installation, app)
    with installation.engine.connect() as conn:
        conn.execute(text("SET LOCAL statement_timeout TO '10s'"))
        known = open_runs(conn)
        pauses = paused(conn)
        suspects = lost_suspects(installation, conn)
    now = utc_now()
    lines = [
        _line(name, queue.purpose, waiting[name], known, _serving(serving, name), now, pauses.get(name))
        for name, queue in queues.items()
    ]
    return Overview(tuple(lines), taken, lag, suspects)


def _serving(workers: Sequence[Worker], queue: str) -> list[Worker]:
    """Those that serve it, or will when it is resumed."""
    return [worker for worker in workers if queue in worker.queues or queue in worker.paused]


def _line(
    name: str,
    purpose: str,
    waiting: int,
    known: Mapping[tuple[str, RunState], Open],
    serving: Sequence[Worker],
    now: datetime,
    pause: Pause | None,
) -> QueueLine:
    def count(state: RunState) -> int:
        return known[name, state].count if (name, state) in known else 0

    oldest = known.get((name, RunState.QUEUED))
    return QueueLine(
        queue=name,
        waiting=waiting,
        oldest_s=None if oldest is None or not waiting else round((now - oldest.oldest).total_seconds(), 1),
        running=count(RunState.RUNNING),
        delayed=count(RunState.DELAYED),
        retrying=count(RunState.RETRYING),
        workers=len(serving),
        slots=sum(worker.slots or 0 for worker in serving),
        purpose=purpose,
        paused_since=pause.since if pause else None,
        paused_by=pause.who if pause else None,
        pause_reason=pause.reason if pause else None,
    )
