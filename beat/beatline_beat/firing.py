"""One page of due entries: decide each, write the rows, publish, move the entries. In this order, so that a crash
between two steps loses nothing: rows that stand keep their decision, and what they fired is published again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.exc import DataError, IntegrityError

from beatline import failpoints
from beatline.clock import utc_now
from beatline.engine.publish import message_of, publish_stored
from beatline.errors import NameRefusedError
from beatline.installation import Installation
from beatline.logs import get_logger
from beatline.names import check_name
from beatline.schedules import store
from beatline.schedules.decide import Decision, OutcomeKind, decide
from beatline.schedules.model import Cron, Schedule
from beatline.schedules.occurrences import Decided, record, run_id_of
from beatline_beat.adopt import adopt_entry
from beatline_beat.entries import ASIDE, Entries, Found, Put, digest, meta_json, run_count
from beatline_beat.leader import Leadership
from beatline_beat.sync import Specs, Sync, reason_of

log = get_logger(__name__)

PAGE: Final = 500
_CONTENDED_S: Final = 0.05
"""How long to leave a schedule alone that somebody is changing right now."""


@contextmanager
def _whole() -> Generator[None]:
    """A signal to stop waits until the page is whole: else what it fired would wait for the recorder."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    handlers = {signum: signal.getsignal(signum) or signal.SIG_DFL for signum in (signal.SIGTERM, signal.SIGINT)}
    for signum in handlers:
        signal.signal(signum, lambda caught, _: waiting.append(caught))
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for caught in waiting[:1]:
            signal.raise_signal(caught)


@dataclass(slots=True)
class _Page:
    """What a page comes to, gathered entry by entry."""

    decided: list[tuple[Found, Decided]] = field(default_factory=list[tuple[Found, Decided]])
    puts: list[Put] = field(default_factory=list[Put])
    gone: list[str] = field(default_factory=list[str])
    rewrite: list[Schedule] = field(default_factory=list[Schedule])
    upcoming: list[datetime] = field(default_factory=list[datetime])


class Firing:
    """Fires what is due. Works only while its Beat leads; raises what Redis and PostgreSQL raise."""

    def __init__(
        self, installation: Installation, app: Any, leader: Leadership, entries: Entries, sync: Sync, specs: Specs
    ) -> None:
        self._installation, self._app, self._leader = installation, app, leader
        self._entries, self._sync, self._specs = entries, sync, specs

    def turn(self, longest_s: float) -> float:
        """Fire one page; how long there is nothing to do, in seconds."""
        now = utc_now()
        found, upcoming = self._entries.page(now, PAGE)
        page = _Page(upcoming=[upcoming] if upcoming else [])
        rows = self._rows(found, page)
        for one, row in rows:
            self._decide(one, row, now, page)
        with _whole():
            contended = self._fire(page, now)
            self._entries.put(page.puts)
            self._entries.drop(page.gone)
            self._sync.project(page.rewrite)
        if len(found) == PAGE:
            return 0.0
        waits = [(moment - utc_now()).total_seconds() for moment in page.upcoming]
        waits += [_CONTENDED_S] * contended
        return max(0.0, min([longest_s, *waits]))

    def _rows(self, found: Sequence[Found], page: _Page) -> list[tuple[Found, Schedule]]:
        """The live rows of due entries; entries of stock RedBeat get theirs, those without any are taken away."""
        if not found:
            return []
        names = {one.key: self._entries.name_of(one.key) for one in found}
        with self._installation.engine.connect() as conn:
            rows = store.by_names(conn, sorted(set(names.values())))
        for one in found:
            if self._is_foreign(one, rows.get(names[one.key])):
                with self._installation.engine.begin() as conn:
                    adopt_entry(conn, names[one.key], one.definition, one.meta)
                    rows |= store.by_names(conn, [names[one.key]])
        live: list[tuple[Found, Schedule]] = []
        for one in found:
            row = rows.get(names[one.key])
            if row is None or row.removed_at is not None:
                self._forget(one, names[one.key], page)
            elif row.quarantined is not None:
                page.puts.append(Put(key=one.key, score=ASIDE))
            elif row.paused_at is not None:
                page.rewrite.append(row)
            else:
                live.append((one, row))
        return live

    def _is_foreign(self, one: Found, row: Schedule | None) -> bool:
        """Whether a stock tool wrote the entry, or wrote over it. Only what came from there is changed from there."""
        if one.definition is None or (row is not None and row.removed_at is None and row.owner != "redbeat"):
            return False
        return one.ext is None or (row is not None and one.ext.hash != digest(one.definition))

    def _forget(self, one: Found, name: str, page: _Page) -> None:
        try:
            check_name("schedule", name)
        except NameRefusedError:
            page.puts.append(Put(key=one.key, score=ASIDE))  # its key may be anything, the lock for one: leave it
            log.error("beat: entry set aside", key=one.key, reason="no schedule can have this name")
        else:
            page.gone.append(one.key)
            log.info("beat: entry without a schedule taken away", schedule=name)

    def _decide(self, one: Found, row: Schedule, now: datetime, page: _Page) -> None:
        try:
            spec = self._specs.of(row)
            decision = decide(spec.trigger, row.decided_until, now)
            fired = next((o.first for o in decision.outcomes if o.kind is OutcomeKind.FIRED), None)
            message = None
            if fired is not None:
                message = message_of(
                    self._app, spec.task, spec.args, spec.kwargs, run_id=run_id_of(row.id, fired),
                    day=fired.astimezone(UTC).date().isoformat(), queue=spec.queue, priority=spec.priority,
                    schedule=row.name, slot=fired,
                )  # fmt: skip
            if decision.outcomes:
                page.decided.append((one, Decided(row, decision, message)))
            else:
                self._move(one, row, decision, page, ran=False)
        except Exception as exc:  # noqa: BLE001  # whatever is wrong with it, the others go on
            self._sync.quarantine(row, reason_of(exc))
            page.puts.append(Put(key=one.key, score=ASIDE))

    def _fire(self, page: _Page, now: datetime) -> bool:
        """Rows, then messages, then moves; whether schedules were left alone because somebody is changing them."""
        if not page.decided or not self._leader.holds():
            return bool(page.decided)
        failpoints.reach("beat.before_rows")
        written = self._record([decided for _, decided in page.decided], now)
        failpoints.reach("beat.after_rows")
        done = [(one, decided) for one, decided in page.decided if decided.schedule.id in written]
        messages = [decided.message for _, decided in done if decided.message is not None]
        publish_stored(self._installation, messages)
        failpoints.reach("beat.after_publish")
        for one, decided in done:
            self._move(one, decided.schedule, decided.decision, page, ran=decided.message is not None)
        self._say(done)
        if not done:
            self._leader.check_number()
        return len(done) < len(page.decided)

    def _record(self, page: Sequence[Decided], now: datetime) -> set[UUID]:
        """Write a page; one that PostgreSQL refuses is halved until the bad row stands alone."""
        try:
            with self._installation.engine.begin() as conn:
                return record(conn, page, self._leader.scribe, now, self._installation.keyring)
        except (DataError, IntegrityError) as exc:
            if len(page) == 1:
                self._sync.quarantine(page[0].schedule, f"PostgreSQL refuses its rows: {exc.orig}")
                return set()
            middle = len(page) // 2
            return self._record(page[:middle], now) | self._record(page[middle:], now)

    def _move(self, one: Found, row: Schedule, decision: Decision, page: _Page, *, ran: bool) -> None:
        if decision.next_slot is None:
            page.gone.append(one.key)
            return
        page.upcoming.append(decision.next_slot)
        after = replace(row, decided_until=decision.decided_until)
        meta = meta_json(decision.decided_until, run_count(one.meta) + 1) if ran else ""
        if self._is_current(one, row):
            score = decision.next_slot.timestamp()
            page.puts.append(Put(key=one.key, score=score, expected=one.score, meta=meta, ran=ran))
            return
        put = self._sync.put_of(after, meta)
        if put is not None:
            page.puts.append(put)

    def _is_current(self, one: Found, row: Schedule) -> bool:
        """Whether the stock definition is ours, of this version, and holds for more than one slot."""
        ext, definition = one.ext, one.definition
        if ext is None or definition is None or ext.version != row.version or ext.hash != digest(definition):
            return False
        return not isinstance(self._specs.of(row).trigger, Cron) or '"rrule"' not in definition

    def _say(self, done: Sequence[tuple[Found, Decided]]) -> None:
        fired = [decided for _, decided in done if decided.message is not None]
        if fired:
            log.info("beat: fired", runs=len(fired), schedules=[decided.schedule.name for decided in fired[:5]])
        for _, decided in done:
            late = [o for o in decided.decision.outcomes if o.kind is OutcomeKind.COALESCED]
            if late:
                log.warning(
                    "beat: slots coalesced", schedule=decided.schedule.name, slots=sum(o.count for o in late),
                    first=late[0].first.isoformat(),
                )  # fmt: skip
