"""Removes old history a day at a time: what is still open or dead moves out, then the day's partitions are dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from beatline.ledger.database import LOCK_NOT_AVAILABLE, schema_of, sql, sqlstate
from beatline.ledger.model import PARTITIONED
from beatline.ledger.partitions import days_of, name_of

_KEPT: Final = "(ended_at IS NULL OR state = 'dead')"
_OF_KEPT: Final = "EXISTS (SELECT 1 FROM {schema}.runs_default r WHERE r.day = old.day AND r.id = old.run_id)"
_FORGET: Final = """
    DELETE FROM {schema}.run_days d USING (SELECT KEY AS id FROM {schema}.PARTITION) gone WHERE d.id = gone.id
    AND NOT EXISTS (SELECT 1 FROM {schema}.runs_default r WHERE r.day = d.day AND r.id = d.id)
"""
_LATE_RUNS: Final = """
    WITH gone AS (
        DELETE FROM {schema}.runs_default WHERE day < :oldest AND ended_at IS NOT NULL AND state <> 'dead' RETURNING id
    ), forgotten AS (
        DELETE FROM {schema}.run_days WHERE id IN (SELECT id FROM gone)
    )
    SELECT count(*) FROM gone
"""
_LATE_ATTEMPTS: Final = """
    DELETE FROM {schema}.attempts_default a WHERE day < :oldest
    AND NOT EXISTS (SELECT 1 FROM {schema}.runs_default r WHERE r.day = a.day AND r.id = a.run_id)
"""
_PARTITION: Final = re.compile(rf"(?:{'|'.join(PARTITIONED)})_(\d{{4}})(\d\d)(\d\d)")


@dataclass(slots=True)
class Pruned:
    """What was removed: whole days, and runs of days dropped before that have ended since.

    `busy` are days that were in use and stay until the next time; `kept` counts runs that are open or dead.
    """

    days: list[date] = field(default_factory=list[date])
    busy: list[date] = field(default_factory=list[date])
    kept: int = 0
    late: int = 0


def prune(engine: Engine, keep_days: int, today: date) -> Pruned:
    """Drop the history of days more than `keep_days` before today; runs that are not ended, and dead ones, stay.

    Where the caller's clock is ahead of PostgreSQL's, today is what PostgreSQL says. Broken off anywhere, it is completed
    the next time.
    """
    if keep_days < 1:
        raise ValueError(f"keep_days is {keep_days}: at least one day is kept")
    pruned = Pruned()
    with engine.begin() as lead:
        held = lead.execute(
            text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))"),
            {"name": f"beatline.retention:{schema_of(lead)}"},
        ).scalar()
        if not held:
            return pruned
        known: date = lead.execute(text("SELECT CAST(now() AT TIME ZONE 'UTC' AS date)")).scalar_one()
        oldest = min(today, known) - timedelta(days=keep_days)
        attached = {day for table in PARTITIONED for day in days_of(lead, table) if day < oldest}
        for day in sorted(attached | _detached(lead, oldest)):
            try:
                pruned.kept += _detach(engine, day)
                _drop(engine, day)
                pruned.days.append(day)
            except DBAPIError as exc:
                if sqlstate(exc) != LOCK_NOT_AVAILABLE:
                    raise
                pruned.busy.append(day)
        pruned.late = _prune_default(engine, oldest)
    return pruned


def _detached(conn: Connection, oldest: date) -> set[date]:
    """Days whose partitions were detached and not dropped: an earlier pruning was broken off."""
    names = conn.execute(
        text(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = :schema AND c.relkind = 'r' AND NOT c.relispartition"
        ),
        {"schema": schema_of(conn)},
    ).scalars()
    matches = (_PARTITION.fullmatch(str(name)) for name in names)
    days = {date(int(m[1]), int(m[2]), int(m[3])) for m in matches if m}
    return {day for day in days if day < oldest}


def _detach(engine: Engine, day: date) -> int:
    """Take a day's partitions out of their tables, and put what is kept into the default ones; how many runs are."""
    kept = 0
    with engine.begin() as conn:
        _take_time(conn)
        attached = [table for table in PARTITIONED if day in days_of(conn, table)]
        for table in attached:
            conn.execute(sql(conn, f"ALTER TABLE {{schema}}.{table} DETACH PARTITION {{schema}}.{name_of(table, day)}"))
        if "runs" in attached:
            kept = _move(conn, "runs", day, _KEPT)
        if "attempts" in attached:
            _move(conn, "attempts", day, _OF_KEPT)
    return kept


def _move(conn: Connection, table: str, day: date, condition: str) -> int:
    statement = (
        "INSERT INTO {schema}.TABLE_default SELECT old.* FROM {schema}.PARTITION old WHERE CONDITION "
        "ON CONFLICT DO NOTHING"
    )
    named = statement.replace("TABLE", table).replace("PARTITION", name_of(table, day))
    return conn.execute(sql(conn, named.replace("CONDITION", condition))).rowcount


def _drop(engine: Engine, day: date) -> None:
    with engine.begin() as conn:
        _take_time(conn)
        for table, key in (("runs", "id"), ("attempts", "run_id")):
            name = name_of(table, day)
            if conn.execute(sql(conn, "SELECT to_regclass('{schema}.NAME')".replace("NAME", name))).scalar():
                conn.execute(sql(conn, _FORGET.replace("KEY", key).replace("PARTITION", name)))
        for table in PARTITIONED:
            conn.execute(sql(conn, f"DROP TABLE IF EXISTS {{schema}}.{name_of(table, day)}"))


def _prune_default(engine: Engine, oldest: date) -> int:
    with engine.begin() as conn:
        _take_time(conn)
        gone: int = conn.execute(sql(conn, _LATE_RUNS), {"oldest": oldest}).scalar_one()
        conn.execute(sql(conn, _LATE_ATTEMPTS), {"oldest": oldest})
        conn.execute(sql(conn, "DELETE FROM {schema}.occurrences_default WHERE day < :oldest"), {"oldest": oldest})
    return gone


def _take_time(conn: Connection) -> None:
    # Much may have to be moved; but who waits for a lock stops every writer behind it.
    conn.execute(text("SET LOCAL statement_timeout TO 0"))
    conn.execute(text("SET LOCAL lock_timeout TO '2s'"))
