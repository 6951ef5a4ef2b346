"""What was loaded, kept beside the target and committed with its rows: the watermark, and which runs are done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from beatline_tasks.etl.ends import Target, stands
from beatline_tasks.etl.session import Session

_MAKE: Final = """
    CREATE TABLE IF NOT EXISTS {journal} (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_id uuid NOT NULL,
        run_id text NOT NULL,
        target text NOT NULL,
        loaded_at timestamptz NOT NULL,
        watermark jsonb,
        counts jsonb NOT NULL,
        UNIQUE (job_id, run_id)
    )
"""


@dataclass(frozen=True, slots=True)
class Load:
    """A load that was committed."""

    watermark: dict[str, Any] | None
    counts: dict[str, Any]


class Journal:
    """The loads of one job into one target, in the session of the target."""

    def __init__(self, session: Session, target: Target, job_id: UUID) -> None:
        self._session, self._target = session, target
        self._job = f"CAST({session.let('job', str(job_id))} AS uuid)"
        self._into = session.let("into", str(target.table))

    def make(self) -> None:
        """Let there be one; in the installation's own database a migration made it."""
        if self._target.own or stands(self._session, self._target.journal):
            return
        name = self._session.let("lock", f"beatline journal {self._target.journal}")
        # IF NOT EXISTS alone fails where another makes it at the same time; the lock is held until it is committed.
        self._session.run(f"SELECT pg_advisory_xact_lock(hashtextextended({name}, 0))")
        self._session.run(_MAKE.format(journal=self._target.journal.sql), what="Making the table of loads")

    def of_run(self, run_id: str) -> Load | None:
        """What a run has loaded already."""
        return self._find(f"run_id = {self._session.let('run', run_id)}")

    def latest(self) -> Load | None:
        """The last load into the target."""
        return self._find(f"target = {self._into}")

    def record(self, run_id: str, watermark: Mapping[str, Any] | None, counts: Mapping[str, Any]) -> None:
        """Note a load, in the transaction of its rows."""
        mark = self._session.let("watermark", "" if watermark is None else json.dumps(dict(watermark)))
        counted = self._session.let("counts", json.dumps(dict(counts)))
        run = self._session.let("run", run_id)
        self._session.run(
            f"INSERT INTO {self._target.journal.sql} (job_id, run_id, target, loaded_at, watermark, counts) "
            f"VALUES ({self._job}, {run}, {self._into}, clock_timestamp(), "
            f"CAST(NULLIF({mark}, '') AS jsonb), CAST({counted} AS jsonb))"
        )

    def forget_watermark(self) -> int:
        """The next load reads the whole input; how many loads knew a watermark."""
        return self._session.run(
            f"UPDATE {self._target.journal.sql} SET watermark = NULL "
            f"WHERE job_id = {self._job} AND target = {self._into} AND watermark IS NOT NULL"
        )

    def _find(self, condition: str) -> Load | None:
        rows = self._session.rows(
            f"SELECT watermark, counts FROM {self._target.journal.sql} "
            f"WHERE job_id = {self._job} AND {condition} ORDER BY number DESC LIMIT 1"
        )
        return Load(rows[0][0], rows[0][1]) if rows else None
