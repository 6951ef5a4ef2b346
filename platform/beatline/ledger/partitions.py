"""Daily partitions: made ahead, and made afterwards for days whose rows the default partition caught."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

from sqlalchemy import Connection, text

from beatline.ledger.database import quoted, schema_of, sql
from beatline.ledger.model import PARTITIONED

AHEAD_DAYS: Final = 3

_MOVE: Final = """
    WITH gone AS (DELETE FROM {schema}.TABLE_default WHERE day = :day RETURNING *)
    INSERT INTO {schema}.PARTITION SELECT * FROM gone
"""


def name_of(table: str, day: date) -> str:
    """The name of a day's partition."""
    return f"{table}_{day:%Y%m%d}"


def full_name(conn: Connection, table: str) -> str:
    """The table's name with its schema, as PostgreSQL reads it."""
    return f"{quoted(schema_of(conn))}.{table}"


def days_of(conn: Connection, table: str) -> list[date]:
    """The days that have a partition of their own, oldest first."""
    names = conn.execute(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = to_regclass(:parent)"
        ),
        {"parent": full_name(conn, table)},
    ).scalars()
    stamps = (str(name).rpartition("_")[2] for name in names)
    return sorted(date(int(s[:4]), int(s[4:6]), int(s[6:])) for s in stamps if s != "default")


def ensure(conn: Connection, today: date, *, ahead: int = AHEAD_DAYS, behind: int = 7) -> list[str]:
    """Every day from today to `ahead` days on has its partition, and so has a past day with rows in the default one.

    Looks back `behind` days: what is older is retention's. Rows move with their partition in the transaction of
    `conn`; nothing is visible half-way. Returns the names of what was made.
    """
    made: list[str] = []
    for table in PARTITIONED:
        have = set(days_of(conn, table))
        want = {today + timedelta(days=n) for n in range(ahead + 1)}
        want |= _caught(conn, table, today - timedelta(days=behind), today)
        missing = sorted(want - have)
        if missing:
            # A writer that has chosen the default partition would break on its new bounds. This waits for those at
            # work and keeps new ones from choosing; readers go on.
            conn.execute(sql(conn, f"LOCK TABLE {{schema}}.{table} IN SHARE ROW EXCLUSIVE MODE"))
        for day in missing:
            _make(conn, table, day)
            made.append(name_of(table, day))
    return made


def _caught(conn: Connection, table: str, first: date, last: date) -> set[date]:
    # A day without rows in the default partition costs one probe of its primary key.
    rows = conn.execute(
        sql(
            conn,
            "SELECT CAST(d AS date) FROM generate_series(CAST(:first AS timestamp), :last, interval '1 day') d "
            "WHERE EXISTS (SELECT 1 FROM {schema}.TABLE_default r WHERE r.day = CAST(d AS date))".replace(
                "TABLE", table
            ),
        ),
        {"first": first, "last": last},
    )
    return set(rows.scalars())


def _make(conn: Connection, table: str, day: date) -> None:
    # Made apart and then attached: PARTITION OF would lock the whole table against readers too.
    name, after = name_of(table, day), day + timedelta(days=1)
    conn.execute(sql(conn, f"CREATE TABLE {{schema}}.{name} (LIKE {{schema}}.{table} INCLUDING ALL)"))
    conn.execute(sql(conn, _MOVE.replace("TABLE", table).replace("PARTITION", name)), {"day": day})
    conn.execute(
        sql(
            conn,
            f"ALTER TABLE {{schema}}.{table} ATTACH PARTITION {{schema}}.{name} FOR VALUES FROM ('{day}') TO ('{after}')",
        )
    )
