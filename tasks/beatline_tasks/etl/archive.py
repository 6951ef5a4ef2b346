"""Archiving: the rows of a past day go into a compressed file, which is read back, and then out of the table.

A day is one transaction: its rows are locked, copied into a file, the file is stored and read back, the rows are
deleted and the file is noted. Broken off anywhere, the rows are where they were, and at most a stored file is left that
nobody names, which the artifact store sweeps away. What comes next is always the oldest day that has rows: so missed
days are caught up one by one, and rows that come late for a day go into a further file.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from sqlalchemy import func, insert, select

from beatline.artifacts import ArtifactStore
from beatline.clock import utc_now
from beatline.datasets.table import check_dataset_name
from beatline.definitions import Definition
from beatline.definitions.lock import BUSY, DefinitionLock, definition_lock
from beatline.errors import BeatlineError, TransientError
from beatline.failpoints import reach
from beatline.ledger.database import guarded, quoted
from beatline.logs import get_logger
from beatline_tasks.etl.archive_file import SUFFIX, Written, open_file, read_back, write_rows
from beatline_tasks.etl.disk import disk_in_words
from beatline_tasks.etl.ends import absent, own_session
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.fieldtypes import NAIVE, TIMESTAMP, base
from beatline_tasks.etl.job import Archive, Job
from beatline_tasks.etl.running import open_job
from beatline_tasks.etl.session import Session, Table
from beatline_tasks.etl.tables import archives
from beatline_tasks.etl.target import columns_of

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.task.context import RunContext

_WHAT: Final = "Archiving"
_DOOMED: Final = "pg_temp.beatline_doomed"
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the job's zone as bounds of the time column: from `begins`, before `ends`; all of them the server's."""

    day: date
    begins: str
    ends: str


def run_archive(installation: Installation, job_id: str, run: RunContext) -> dict[str, Any] | Literal["busy"]:
    """Archive every day that is due, the oldest first; `busy` if another run of the job is at work.

    Raises JobError for what a person must mend, TransientError or ServiceError for what may pass; the days archived
    before stay archived.
    """
    with guarded(installation.settings):
        definition, job = open_job(installation, job_id)
        if job.archive is None:
            raise JobError(f"{definition.called} loads: it is for the task etl.run_job.")
        with definition_lock(installation.engine, definition, run) as lock:
            if lock is None:
                return BUSY
            return _Archiving(installation, definition, job, job.archive, run.run_id, lock).execute()


def first_due(session: Session, table: Table, archive: Archive) -> Day | None:
    """The oldest day that has rows and is due; None if there is none. Raises JobError if there is no such column.

    The server alone says what day it is, to which day a row belongs and where days end: this process may know other
    rules of the zone, and a day whose row lies outside it would come back for ever.
    """
    kind = time_kind(session, table, archive)
    column, zone = quoted(archive.time_column), session.let("zone", archive.zone)
    end = _midnight(f"(CAST(now() AT TIME ZONE {zone} AS date) - {archive.older_than_days - 1})", zone, kind)
    local = f"first AT TIME ZONE {zone}" if kind == TIMESTAMP else "first"
    day, begins, ends = session.one(
        f"SELECT CAST(day AS text), CAST(least(first, {_midnight('day', zone, kind)}) AS text), "
        f"CAST(least({end}, {_midnight('(day + 1)', zone, kind)}) AS text) "
        f"FROM (SELECT first, CAST({local} AS date) AS day "
        f"FROM (SELECT min({column}) AS first FROM {table.sql} WHERE isfinite({column}) AND {column} < {end}) AS oldest"
        ") AS due",
        what=_WHAT,
    )
    if day is None:
        return None
    try:
        return Day(date.fromisoformat(day), begins, ends)
    except ValueError:
        raise JobError(
            f"The oldest row of {table} is of the day {day}, which no file can be named after: correct its "
            f"{archive.time_column}."
        ) from None


def _midnight(day: str, zone: str, kind: str) -> str:
    """The SQL expression of the moment at which a day begins, in the type of the time column."""
    if kind == "date":
        return f"CAST({day} AS date)"
    return f"(CAST({day} AS timestamp) AT TIME ZONE {zone})" if kind == TIMESTAMP else f"CAST({day} AS timestamp)"


def time_kind(session: Session, table: Table, archive: Archive) -> str:
    """The type of the time column. Raises JobError if table or column are not there, or it holds no time."""
    columns = columns_of(session, table)
    if columns is None:
        raise JobError(absent(session, table, "dataset"))
    if archive.time_column not in columns:
        raise JobError(
            f"archive.time_column {archive.time_column!r} is no column of {table}; it has: {', '.join(columns)}."
        )
    kind = base(columns[archive.time_column].kind)
    if kind not in ("date", TIMESTAMP, NAIVE):
        raise JobError(f"archive.time_column {archive.time_column!r} is {kind}: it must be a date or a time stamp.")
    return kind


class _Archiving:
    def __init__(
        self,
        installation: Installation,
        definition: Definition,
        job: Job,
        archive: Archive,
        run_id: str,
        lock: DefinitionLock,
    ) -> None:
        check_dataset_name(archive.dataset)
        self._installation, self._definition = installation, definition
        self._job, self._archive, self._run_id, self._lock = job, archive, run_id, lock
        self._table = Table(installation.settings.data_schema, archive.dataset)
        self._store = ArtifactStore.of(installation)

    def execute(self) -> dict[str, Any]:
        """Day after day; what was archived."""
        files: list[dict[str, Any]] = []
        empty: date | None = None
        while True:
            with own_session(self._installation, self._job) as session:
                due = first_due(session, self._table, self._archive)
            if due is None:
                return {"files": len(files), "rows": sum(file["rows"] for file in files), "archived": files}
            try:
                done = self._archive_day(due)
                if done is None and due.day == empty:
                    raise JobError(f"{due.day} is the oldest day of {self._table}, and twice no row of it was found.")
                empty = due.day if done is None else None
            except TransientError:
                raise
            except BeatlineError as exc:
                self._note_failure(due.day, str(exc))
                raise
            reach("etl_archived")
            if done is not None:
                get_logger(__name__).info("archived", job=self._definition.name, **done)
                files.append(done)

    def _archive_day(self, due: Day) -> dict[str, Any] | None:
        """One day, in one transaction; None if its rows went elsewhere meanwhile."""
        with own_session(self._installation, self._job) as session, ExitStack() as opened:
            doomed = self._lock_rows(session, due)
            if not doomed:
                return None
            with disk_in_words(_WHAT):
                file = opened.enter_context(open_file())
                written = write_rows(session, self._query(), file, self._archive.format)
            if written.rows != doomed:
                raise JobError(f"{doomed:,} rows of {due.day} were locked and {written.rows:,} were copied.")
            part = self._next_part(session, due.day)
            artifact_id = self._keep(session, written, due.day, part)
            reach("etl_archive_stored")
            self._verify(session, artifact_id, written)
            deleted = session.run(
                f'DELETE FROM {self._table.sql} t USING {_DOOMED} d WHERE t.tableoid = d."table" AND t.ctid = d."row"',
                what=_WHAT,
            )
            if deleted != written.rows:
                raise JobError(f"The file has {written.rows:,} rows of {due.day}, and {deleted:,} were deleted.")
            self._note(session, due.day, part, artifact_id, written)
            self._lock.check()
            reach("etl_archive_deleted")
        return {"day": due.day.isoformat(), "part": part, "rows": written.rows, "artifact": str(artifact_id)}

    def _lock_rows(self, session: Session, due: Day) -> int:
        """Lock the day's rows, so that what is copied is what is deleted; how many. Others read and add meanwhile."""
        kind, column = time_kind(session, self._table, self._archive), quoted(self._archive.time_column)
        begins, ends = (f"CAST({session.let(n, v)} AS {kind})" for n, v in (("begins", due.begins), ("ends", due.ends)))
        return session.run(
            f'CREATE TEMPORARY TABLE {_DOOMED} ON COMMIT DROP AS SELECT t.tableoid AS "table", t.ctid AS "row" '
            f"FROM {self._table.sql} t WHERE {column} >= {begins} AND {column} < {ends} FOR UPDATE",
            what=_WHAT,
        )

    def _query(self) -> str:
        return (
            f'SELECT t.* FROM {self._table.sql} t JOIN {_DOOMED} d ON t.tableoid = d."table" AND t.ctid = d."row" '
            f"ORDER BY t.{quoted(self._archive.time_column)}"
        )

    def _next_part(self, session: Session, day: date) -> int:
        table = archives.c
        ours = (table.job_id == self._definition.id, table.dataset == self._archive.dataset, table.day == day)
        latest = session.conn.execute(select(func.max(table.part)).where(*ours, table.state == "archived")).scalar()
        return int(latest or 0) + 1

    def _keep(self, session: Session, written: Written, day: date, part: int) -> UUID:
        """Bring the file into the store, and record it in the transaction."""
        stored = self._store.write(written.file)
        if stored.sha256 != written.sha256:
            raise TransientError(f"The file of {day} was stored as another than it was written.")
        further = "" if part == 1 else f"-{part}"
        keep_days = self._archive.keep_days
        return self._store.record(
            session.conn,
            stored,
            name=f"{self._archive.dataset}-{day}{further}{SUFFIX[self._archive.format]}",
            content_type="application/gzip",
            family="etl",
            run_id=self._run_id,
            keep_s=None if keep_days is None else keep_days * _DAY_S,
        )

    def _verify(self, session: Session, artifact_id: UUID, written: Written) -> None:
        with self._store.open(session.conn, artifact_id) as file:
            found = read_back(file, self._archive.format)
        if found != (written.sha256, written.rows):
            raise JobError(
                f"The file that was stored does not read back: {found[1]:,} rows and checksum {found[0][:12]}…, "
                f"not {written.rows:,} and {written.sha256[:12]}…. The rows are where they were."
            )

    def _note(self, session: Session, day: date, part: int, artifact_id: UUID, written: Written) -> None:
        values = {"state": "archived", "artifact_id": artifact_id, "rows": written.rows, "sha256": written.sha256}
        session.conn.execute(insert(archives).values(**self._about(day, part), **values))

    def _note_failure(self, day: date, reason: str) -> None:
        with self._installation.engine.begin() as conn:
            conn.execute(insert(archives).values(**self._about(day, 0), state="failed", reason=reason))

    def _about(self, day: date, part: int) -> dict[str, Any]:
        job = {"job_id": self._definition.id, "job": self._definition.name, "dataset": self._archive.dataset}
        return job | {"day": day, "part": part, "run_id": self._run_id, "at": utc_now()}
