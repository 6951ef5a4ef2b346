"""From PostgreSQL to RedBeat's entries: what changed at each tick, and everything when a Beat begins to lead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import Engine

from beatline.errors import BeatlineError
from beatline.logs import get_logger
from beatline.schedules import store
from beatline.schedules.model import Schedule, ScheduleSpec
from beatline.schedules.triggers import next_slot
from beatline_beat.entries import ASIDE, BeatlineEntry, Entries, Put

log = get_logger(__name__)

PAGE: Final = 500
_CACHED: Final = 20_000


class Specs:
    """Specs of rows, checked once a version."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, int], ScheduleSpec] = {}

    def of(self, schedule: Schedule) -> ScheduleSpec:
        """The spec of a row. Raises DefinitionError if it makes no sense on this machine."""
        key = (schedule.id, schedule.version)
        if key not in self._known:
            while len(self._known) >= _CACHED:
                del self._known[next(iter(self._known))]
            self._known[key] = schedule.spec()
        return self._known[key]


class Sync:
    """Keeps entries in step with rows. A row that makes no sense is quarantined, and the rest go on."""

    def __init__(self, engine: Engine, entries: Entries, specs: Specs, app: Any, who: str) -> None:
        self._engine, self._entries, self._specs, self._app, self._who = engine, entries, specs, app, who
        self._seen = 0

    def forget(self) -> None:
        """Write every entry again: this Beat begins to lead, or Redis has lost its data."""
        self._seen = 0

    def pull(self) -> bool:
        """Bring a page of changed rows into Redis; whether there may be more."""
        with self._engine.connect() as conn:
            rows = store.changes_since(conn, self._seen, PAGE)
        if rows:
            self.project(rows)
            self._seen = rows[-1].revision
        return len(rows) == PAGE

    def project(self, rows: Iterable[Schedule]) -> None:
        """Make the entries of these rows what the rows say."""
        puts: list[Put] = []
        gone: list[str] = []
        for row in rows:
            put = None if row.removed_at is not None else self._put_of(row)
            if put is None:
                gone.append(self._entries.key_of(row.name))
            else:
                puts.append(put)
        self._entries.put(puts)
        self._entries.drop(gone)

    def put_of(self, row: Schedule, ran: str = "") -> Put | None:
        """The whole entry of a row that makes sense; None if no slot of it will ever come. `ran` is its new `meta`."""
        trigger = self._specs.of(row).trigger
        upcoming = next_slot(trigger, row.decided_until)
        if upcoming is None:
            return None
        entry = BeatlineEntry.of(row, trigger, upcoming, self._app)
        return Put(
            key=self._entries.key_of(row.name),
            score=entry.score if row.live else ASIDE,
            definition=entry.definition,
            ext=entry.ext,
            meta=ran or entry.meta,
            ran=bool(ran),
        )

    def _put_of(self, row: Schedule) -> Put | None:
        aside = Put(key=self._entries.key_of(row.name), score=ASIDE)
        if row.quarantined is not None:
            return aside
        try:
            return self.put_of(row)
        except Exception as exc:  # noqa: BLE001  # whatever is wrong with it, the others go on
            self.quarantine(row, reason_of(exc))
            return aside

    def quarantine(self, row: Schedule, reason: str) -> None:
        """Set a schedule aside in PostgreSQL and say so."""
        with self._engine.begin() as conn:
            if store.quarantine(conn, row, reason, who=self._who):
                log.error("beat: schedule quarantined", schedule=row.name, reason=reason)


def reason_of(exc: Exception) -> str:
    """Why an entry was set aside, in a sentence."""
    return str(exc) if isinstance(exc, BeatlineError) else f"{type(exc).__name__}: {exc}"
