"""`beatline db`: the tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import typer
from sqlalchemy import Connection, text

from beatline.cli.output import AsJson, emit, say
from beatline.installation import Installation
from beatline.ledger import partitions
from beatline.ledger.database import check_schema, current_revision, guarded, open_engine, place, sql, upgrade
from beatline.ledger.migrations import HEAD
from beatline.ledger.model import PARTITIONED
from beatline.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The tables in PostgreSQL.")


@app.command("upgrade")
def upgrade_tables(as_json: AsJson = False) -> None:
    """Bring the tables to this version, make the coming days' partitions, and add Beatline's own schedules.

    Refuses a schema that is newer than this code. Safe to run twice, and at once.
    """
    from beatline.schedules.store import ensure_own

    installation = Installation.load()
    settings = installation.settings
    done = upgrade(settings)
    with guarded(settings), installation.engine.begin() as conn:
        done += [f"added schedule {name}" for name in ensure_own(conn)]
    if as_json:
        emit({"revision": HEAD, "done": done}, as_json=True)
        return
    for line in done:
        say(line)
    say(f"The schema {settings.database_schema!r} of {place(settings)} is at revision {HEAD}.")


@dataclass(frozen=True, slots=True)
class Partitions:
    """The daily partitions of a table; rows of no partition's day stand in the default one."""

    table: str
    partitions: int
    first_day: date | None
    last_day: date | None
    rows_in_default: int
    size_mb: float


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the revision, the partitions, and how much they hold. Exits 1 if the tables are not this version's."""
    settings = Settings.load()
    with guarded(settings), open_engine(settings).connect() as conn:
        revision = current_revision(conn)
        tables = [_partitions(conn, table) for table in PARTITIONED] if revision else []
    where = {"place": place(settings), "schema": settings.database_schema, "revision": revision, "code": HEAD}
    if as_json:
        emit(where | {"tables": tables}, as_json=True)
    else:
        emit(where, as_json=False)
        if tables:
            emit(tables, as_json=False)
    check_schema(settings)


def _partitions(conn: Connection, table: str) -> Partitions:
    days = partitions.days_of(conn, table)
    caught = conn.execute(sql(conn, "SELECT count(*) FROM {schema}.TABLE_default".replace("TABLE", table)))
    size = conn.execute(
        text("SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM pg_partition_tree(CAST(:name AS regclass))"),
        {"name": partitions.full_name(conn, table)},
    )
    return Partitions(
        table=table,
        partitions=len(days),
        first_day=days[0] if days else None,
        last_day=days[-1] if days else None,
        rows_in_default=caught.scalar_one(),
        size_mb=round(int(size.scalar_one()) / 1e6, 1),
    )
