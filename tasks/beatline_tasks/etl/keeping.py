"""Rejected rows, kept with their reasons in the installation's own database; those of a run once, however often it is tried."""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Final, cast
from uuid import UUID

from beatline.ledger.database import place, quoted
from beatline_tasks.etl.session import Session
from beatline_tasks.etl.staging import REJECTED, Stage

if TYPE_CHECKING:
    from beatline.installation import Installation

_ROW_CHARS: Final = 8000
_IN_MEMORY_BYTES: Final = 2**20
_WHAT: Final = "Keeping the rejected rows"


def keep_rejected(
    installation: Installation, session: Session, stage: Stage, job_id: UUID, run_id: str, *, most: int, own: bool
) -> None:
    """Keep the first `most` rejected rows of a run.

    In the transaction of the load where the target is our own; else committed before it, for a foreign one.
    """
    table = f"{quoted(installation.settings.database_schema)}.etl_rejected"
    if own:
        session.run(
            f"INSERT INTO {table} (job_id, run_id, at, reason, row) {_kept(session, stage, job_id, run_id, most)}"
        )
        return
    with cast("IO[bytes]", SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)) as file:
        session.copy_out(_kept(session, stage, job_id, run_id, most), file, what=_WHAT)
        file.seek(0)
        with installation.engine.begin() as conn:
            ours = Session(conn, f"PostgreSQL at {place(installation.settings)}")
            job, run = ours.let("job", str(job_id)), ours.let("run", run_id)
            ours.run(f"DELETE FROM {table} WHERE job_id = CAST({job} AS uuid) AND run_id = {run}")
            ours.copy_in(f"{table} (job_id, run_id, at, reason, row)", file, what=_WHAT)


def _kept(session: Session, stage: Stage, job_id: UUID, run_id: str, most: int) -> str:
    job, run = session.let("job", str(job_id)), session.let("run", run_id)
    cut = f"jsonb_build_object('beatline_cut', left(CAST(seen.row AS text), {_ROW_CHARS}))"
    return (
        f"SELECT CAST({job} AS uuid), {run}, clock_timestamp(), seen.reason, "
        f"CASE WHEN length(CAST(seen.row AS text)) <= {_ROW_CHARS} THEN seen.row ELSE {cut} END "
        f'FROM (SELECT r.reason, to_jsonb(o) AS row FROM {REJECTED} r JOIN {stage.table} o ON o.ctid = r."row" '
        f'ORDER BY r."row" LIMIT {most}) AS seen'
    )
