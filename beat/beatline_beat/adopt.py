"""Schedules that others wrote: `beat_schedule` of the project's configuration, and entries of stock RedBeat in Redis.

Both become rows in PostgreSQL. What cannot be read is listed under its name with the reason, and fires nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, cast

from sqlalchemy import Connection

from beatline.clock import utc_now
from beatline.errors import BeatlineError
from beatline.ledger.events import storable
from beatline.logs import get_logger
from beatline.names import check_name
from beatline.schedules import store
from beatline.schedules.model import Owner, ScheduleSpec, read_spec
from beatline_beat.seams import RedBeatSchedulerEntry
from beatline_beat.stock import raw_trigger, unsupported_options

log = get_logger(__name__)

_CODE: Final = "beat_schedule"
_REDBEAT: Final = "redbeat"
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]+")


def adopt_statics(conn: Connection, statics: Mapping[str, Any]) -> None:
    """Every entry of `beat_schedule` has its row. An operator's change, pause or removal of it stays."""
    names = {fitting_name(str(name)): (name, entry) for name, entry in statics.items()}
    for fitting, (name, entry) in names.items():
        if fitting != name:
            log.info("beat: schedule of beat_schedule is kept under another name", schedule=fitting, given=str(name))
        _adopt_static(conn, fitting, entry)
    for row in store.list_schedules(conn):
        if row.owner == "code" and row.name not in names:
            log.warning(
                "beat: schedule left beat_schedule and still runs; remove it with `beatline schedules remove`",
                schedule=row.name,
            )


def _adopt_static(conn: Connection, name: str, entry: object) -> None:
    standing = store.by_names(conn, [name]).get(name)
    if standing is not None and (standing.owner != "code" or standing.removed_at is not None):
        what = "was removed by an operator" if standing.removed_at else f"belongs to {standing.owner}"
        log.warning("beat: schedule of beat_schedule is not taken over", schedule=name, reason=what)
        return
    try:
        if not isinstance(entry, Mapping):
            raise TypeError("an entry of beat_schedule is a dictionary")  # one place says all reasons
        fields = cast("Mapping[str, Any]", entry)
        with conn.begin_nested():
            _adopt(conn, name, fields, raw_trigger(fields.get("schedule"), None), _CODE, "code")
    except Exception as exc:  # noqa: BLE001  # whatever is wrong with it, the others go on
        _set_aside(conn, name, exc, _CODE, "code")


def adopt_entry(conn: Connection, name: str, definition: str | None, meta: str | None) -> None:
    """An entry that stock RedBeat wrote, or wrote over, has its row; slots since it last ran are decided."""
    try:
        check_name("schedule", name)
        entry: Any = RedBeatSchedulerEntry.decode_definition(definition)
        ran: Any = RedBeatSchedulerEntry.decode_meta(meta).get("last_run_at")
        since = ran.astimezone(UTC) if isinstance(ran, datetime) else None
        standing = store.find(conn, name)
        trigger = raw_trigger(entry.get("schedule"), None if standing else since or utc_now())
        if since is None and standing is None and trigger["type"] != "cron":
            # An entry that never ran is due at once in RedBeat.
            since = (trigger.get("at") or trigger["start"]) - timedelta(microseconds=1)
        with conn.begin_nested():
            _adopt(conn, name, entry, trigger, _REDBEAT, "redbeat", since)
        log.info("beat: adopted an entry of RedBeat", schedule=name)
    except Exception as exc:  # noqa: BLE001  # whatever is wrong with it, the others go on
        _set_aside(conn, name, exc, _REDBEAT, "redbeat")


def _adopt(
    conn: Connection,
    name: str,
    entry: Mapping[str, Any],
    trigger: Mapping[str, Any],
    who: str,
    owner: Owner,
    since: datetime | None = None,
) -> None:
    options: Mapping[str, Any] = entry.get("options") or {}
    dropped = unsupported_options(options)
    if dropped:
        log.warning("beat: options of a schedule are not kept", schedule=name, options=dropped)
    spec: ScheduleSpec = read_spec(
        name,
        {
            "task": entry.get("task"),
            "args": list(entry.get("args") or ()),
            "kwargs": dict(entry.get("kwargs") or {}),
            "queue": options.get("queue"),
            "priority": options.get("priority"),
            "trigger": trigger,
        },
    )
    row, what = store.put(conn, spec, who=who, owner=owner, since=since)
    if entry.get("enabled") is False and what is store.Put.ADDED:
        store.pause(conn, row.name, who=who, reason="enabled=False")


def _set_aside(conn: Connection, name: str, exc: Exception, who: str, owner: Owner) -> None:
    reason = storable(str(exc) if isinstance(exc, BeatlineError) else f"{type(exc).__name__}: {exc}", 1000)
    if store.keep_broken(conn, name, reason, who=who, owner=owner):
        log.error("beat: schedule quarantined", schedule=name, reason=reason)


def fitting_name(name: str) -> str:
    """A name of `beat_schedule` that the grammar allows: what does not fit becomes dashes and a hash of the name."""
    try:
        return check_name("schedule", name)
    except BeatlineError:
        plain = _FOREIGN.sub("-", name).strip("-._")[:80] or "schedule"
        return f"{plain}-{sha256(name.encode('utf-8', 'replace')).hexdigest()[:6]}"
