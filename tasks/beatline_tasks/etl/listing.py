"""What people ask about past runs of a job: which rows were rejected, which days were archived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from sqlalchemy import func, select

from beatline.definitions import Definition, Finding
from beatline.ledger.database import guarded
from beatline_tasks.etl import tables

if TYPE_CHECKING:
    from beatline.installation import Installation


def rejected(
    installation: Installation,
    definition: Definition,
    *,
    run: Annotated[str | None, "Only those of this run."] = None,
    limit: Annotated[int, "How many, the newest first."] = 20,
) -> Finding:
    """Show the rows that runs of the job have rejected, with the reasons."""
    table = tables.rejected.c
    ours = [table.job_id == definition.id, *([] if run is None else [table.run_id == run])]
    query = select(table.at, table.run_id, table.reason, table.row).where(*ours).order_by(table.id.desc())
    with guarded(installation.settings), installation.engine.connect() as conn:
        rows = [dict(row) for row in conn.execute(query.limit(limit)).mappings()]
        count: int = conn.execute(select(func.count()).select_from(tables.rejected).where(*ours)).scalar_one()
    return Finding(
        ok=True, text=f"{_some(count, 'rejected row')} {'is' if count == 1 else 'are'} kept.", rows=tuple(rows)
    )


def archives(
    installation: Installation,
    definition: Definition,
    *,
    limit: Annotated[int, "How many, the newest first."] = 20,
) -> Finding:
    """Show the files that the job has archived, and the days that failed."""
    table = tables.archives.c
    columns = (table.day, table.part, table.state, table.rows, table.artifact_id, table.at, table.reason)
    query = select(*columns).where(table.job_id == definition.id).order_by(table.id.desc()).limit(limit)
    totals = select(func.count(), func.coalesce(func.sum(table.rows), 0)).where(
        table.job_id == definition.id, table.state == "archived"
    )
    with guarded(installation.settings), installation.engine.connect() as conn:
        rows = [dict(row) for row in conn.execute(query).mappings()]
        files, total = conn.execute(totals).one()
    return Finding(ok=True, text=f"{_some(files, 'file')} with {_some(int(total), 'row')}.", rows=tuple(rows))


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
