"""`beatline queues`: what waits where, who serves it, and how far history is behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import text

from beatline.cli.output import AsJson, emit, say
from beatline.cli.workers import ask
from beatline.clock import utc_now
from beatline.installation import Installation
from beatline.ledger.database import guarded
from beatline.ledger.history import Open, open_runs
from beatline.ledger.states import RunState
from beatline.ledger.stream import measure
from beatline.queues.census import Worker, lengths, unacknowledged
from beatline.queues.routing import known_queues


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


def command(as_json: AsJson = False) -> None:
    """Show how many messages wait, how old the oldest is, who serves each queue, and how far history is behind."""
    installation = Installation.load()
    settings = installation.settings
    queues = known_queues(settings.queues)
    lag = measure(installation.redis, installation.keys)
    waiting = lengths(installation.redis, installation.keys, queues)
    taken = unacknowledged(installation.redis, installation.keys)
    workers = ask(installation)
    with guarded(settings), installation.engine.connect() as conn:
        conn.execute(text("SET LOCAL statement_timeout TO '10s'"))
        known = open_runs(conn)
    now = utc_now()
    lines = [
        _line(name, queue.purpose, waiting[name], known, [w for w in workers if name in w.queues], now)
        for name, queue in queues.items()
    ]
    if as_json:
        emit({"queues": lines, "unacknowledged": taken, "ledger": asdict(lag)}, as_json=True)
        return
    emit(lines, as_json=False)
    say(f"{taken} taken and not acknowledged; history is {lag.lag_s:.1f} s behind ({lag.events} events).")
    for line in lines:
        if line.waiting and not line.workers:
            say(f"Nobody who answers serves {line.queue}: start `beatline worker -Q {line.queue}`.")
    if lag.lag_s > 10:
        say("History is far behind: see that `beatline recorder` runs and that PostgreSQL answers.")


def _line(
    name: str,
    purpose: str,
    waiting: int,
    known: Mapping[tuple[str, RunState], Open],
    workers: list[Worker],
    now: datetime,
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
        workers=len(workers),
        slots=sum(worker.slots or 0 for worker in workers),
        purpose=purpose,
    )
