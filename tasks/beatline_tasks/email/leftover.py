"""Messages whose run has ended without a word: they get their end too.

A task that fails calls `email.finish_message`. One that is cancelled, expires, or takes its worker with it until it is
set aside as dead, calls nobody; and a run can be forgotten by history. Who looks at history instead misses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, and_, func, select

from beatline.clock import utc_now
from beatline.datasets.columns import clean_text
from beatline.errors import NotFoundError
from beatline.ledger.database import guarded
from beatline.ledger.model import definitions, run_days, runs
from beatline.ledger.states import ENDED, RunState
from beatline.logs import get_logger
from beatline_tasks.email.database import transaction
from beatline_tasks.email.dispatch import PROCESS, run_id_of
from beatline_tasks.email.processing import FINISH, End, finish
from beatline_tasks.email.tables import messages

if TYPE_CHECKING:
    from beatline.installation import Installation

LEFT_S: Final = 600
"""How long ago a message must have been sent on before anybody asks what became of it."""
_AT_ONCE: Final = 1000
_WHY_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Fate:
    """What history says of a run."""

    task: str
    state: RunState
    why: str | None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED

    def __str__(self) -> str:
        why = clean_text(self.why or "")[:_WHY_CHARS]
        return f"{self.task} ended as {self.state}{': ' if why else ''}{why}"


@dataclass(frozen=True, slots=True)
class _Open:
    id: UUID
    state: str
    stored_at: datetime
    task: str | None

    @property
    def own(self) -> str:
        """The run that hands it over."""
        return run_id_of(self.id, PROCESS)

    @property
    def handed(self) -> str | None:
        """The run it was handed to, if its mailbox names the same task still."""
        return run_id_of(self.id, self.task) if self.task else None


def end_of(state: str, own: Fate | None, handed: Fate | None) -> tuple[End, str | None] | None:
    """The end of a message in this state, from its email.process_message and the run it was handed to; None: not yet.

    A run's acceptance is told before the end of the run that sent it: once that has ended, what is unknown is no more.
    """
    if own is not None and not own.over:
        return None
    if state == "new":
        # Where that run succeeded, the message has moved on since it was read.
        if own is not None and own.state is RunState.SUCCEEDED:
            return None
        return "failed", f"{PROCESS} is unknown to history" if own is None else str(own)
    if handed is None:
        return "failed", "the run it was handed to is unknown to history"
    if not handed.over:
        return None
    return ("processed", None) if handed.state is RunState.SUCCEEDED else ("failed", str(handed))


def end_leftover(installation: Installation) -> dict[str, int]:
    """Give their end to messages that were sent on a while ago and whose runs are over; how many, by end.

    It looks at some thousand, from anywhere on, so that in time it sees all of them, however many wait in a queue.
    """
    counts = {"processed": 0, "failed": 0}
    start, before = uuid4(), utc_now() - timedelta(seconds=LEFT_S)
    with guarded(installation.settings):
        for some in (messages.c.id > start, messages.c.id <= start):
            with transaction(installation) as conn:
                ends = _ends(conn, _open(conn, some, before))
            for one, (end, why) in ends:
                counts[end] += _finished(installation, one, end, why)
    if any(counts.values()):
        get_logger(__name__).warning("messages_ended_for_their_runs", **counts)
    return counts


def _open(conn: Connection, some: ColumnElement[bool], before: datetime) -> list[_Open]:
    t = messages.c
    query = (
        select(t.id, t.state, t.stored_at, definitions.c.spec["on_message"].astext)
        .join(definitions, definitions.c.id == t.mailbox)
        .where(some, t.state.in_(("new", "processing")), t.sent_on_at < before)
    )
    return [_Open(*row) for row in conn.execute(query.order_by(t.id).limit(_AT_ONCE))]


def _ends(conn: Connection, page: Sequence[_Open]) -> list[tuple[_Open, tuple[End, str | None]]]:
    named = {run_id for one in page for run_id in (one.own, one.handed) if run_id is not None}
    fates = _fates(conn, named)
    # Its mailbox may name another task by now; then the run is known by who sent it.
    lost = [one for one in page if one.state == "processing" and (one.handed is None or one.handed not in fates)]
    sent = _sent_by(conn, [one for one in lost if one.own not in fates or fates[one.own].over])
    found = [
        (one, end_of(one.state, fates.get(one.own), fates.get(one.handed or "") or sent.get(one.own))) for one in page
    ]
    return [(one, end) for one, end in found if end is not None]


def _fates(conn: Connection, run_ids: Iterable[str]) -> dict[str, Fate]:
    r = runs.c
    query = (
        select(r.id, r.task, r.state, func.coalesce(r.reason, r.error))
        .join(run_days, and_(run_days.c.day == r.day, run_days.c.id == r.id))
        .where(run_days.c.id.in_(list(run_ids)))
    )
    return {row[0]: Fate(row[1], RunState(row[2]), row[3]) for row in conn.execute(query)}


def _sent_by(conn: Connection, lost: Sequence[_Open]) -> dict[str, Fate]:
    """What was sent by the runs of these messages, by those runs. It looks through whole days: seldom, and once each."""
    if not lost:
        return {}
    r = runs.c
    query = select(r.parent_id, r.task, r.state, func.coalesce(r.reason, r.error)).where(
        r.day.in_({one.stored_at.date() for one in lost}),
        r.parent_id.in_([one.own for one in lost]),
        r.task.not_in((PROCESS, FINISH)),  # a person may have retried it
    )
    return {row[0]: Fate(row[1], RunState(row[2]), row[3]) for row in conn.execute(query)}


def _finished(installation: Installation, one: _Open, end: End, why: str | None) -> bool:
    try:
        return finish(installation, str(one.id), end, why, only_if=one.state) == end
    except NotFoundError:  # its mailbox was removed meanwhile
        return False
