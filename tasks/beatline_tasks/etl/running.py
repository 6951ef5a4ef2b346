"""One run of a load: read, transform, reject, load, check; committed as one, with its watermark, or not at all."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from beatline.definitions import Definition
from beatline.definitions.lock import BUSY, definition_lock
from beatline.definitions.opening import open_definition
from beatline.failpoints import reach
from beatline.ledger.database import guarded
from beatline.logs import get_logger
from beatline_tasks.etl import checks, replace, staging, target
from beatline_tasks.etl.contract import Plan, compare
from beatline_tasks.etl.ends import Target, target_session
from beatline_tasks.etl.errors import BlockedError, JobError
from beatline_tasks.etl.incoming import read
from beatline_tasks.etl.job import Job, Output
from beatline_tasks.etl.journal import Journal
from beatline_tasks.etl.journal import Load as Past
from beatline_tasks.etl.keeping import keep_rejected
from beatline_tasks.etl.session import Session, Table
from beatline_tasks.etl.staging import Stage

if TYPE_CHECKING:
    from beatline.definitions.lock import DefinitionLock
    from beatline.installation import Installation
    from beatline.task.context import RunContext

KIND: Final = "job"


@dataclass(slots=True)
class Counts:
    """What a run read and what became of it: `read` rows came, `out` went to the target, `rejected` did not."""

    read: int = 0
    out: int = 0
    rejected: int = 0
    new: int = 0
    changed: int = 0
    said: dict[str, Any] = field(default_factory=dict[str, Any])

    def warn(self, job: str, found: Sequence[str]) -> None:
        """Tell what a person should know of a load that goes in."""
        if found:
            self.said["warnings"] = [*self.said.get("warnings", []), *found]
            get_logger(__name__).warning("load_warns", job=job, found=list(found))

    def result(self) -> dict[str, Any]:
        """The run's result."""
        counts = {"in": self.read, "out": self.out, "rejected": self.rejected, "new": self.new, "changed": self.changed}
        return counts | self.said


def run_load(installation: Installation, job_id: str, run: RunContext) -> dict[str, Any] | Literal["busy"]:
    """Load what a job has to load; `busy` if another run does so. A run that was committed is not loaded again.

    Raises JobError for what a person must mend, TransientError or ServiceError for what may pass.
    """
    with guarded(installation.settings):
        definition, job = open_job(installation, job_id)
        if job.output is None:
            raise JobError(f"{definition.called} archives: it is for the task etl.archive.")
        with definition_lock(installation.engine, definition, run) as lock:
            if lock is None:
                return BUSY
            result = load(installation, definition, job, job.output, run.run_id, lock)
    reach("etl_committed")
    get_logger(__name__).info("loaded", job=definition.name, target=job.output.table, **result)
    return result


def open_job(installation: Installation, name_or_id: object) -> tuple[Definition, Job]:
    """The job of this name or id, secrets in place; raises as `open_definition` does."""
    return open_definition(installation, KIND, name_or_id, Job, error=JobError)


def load(
    installation: Installation, definition: Definition, job: Job, output: Output, run_id: str, lock: DefinitionLock
) -> dict[str, Any]:
    """The load itself, committed; what it comes to."""
    with target_session(installation, job, output) as (session, goal):
        journal = Journal(session, goal, definition.id)
        journal.make()
        done = journal.of_run(run_id)
        if done is not None:
            return done.counts | {"already": True}
        loading = Loading(installation, definition, job, output, session, goal)
        result = loading.execute(run_id, journal)
        session.run("SET CONSTRAINTS ALL IMMEDIATE", what="A constraint")  # in words here, not at the commit
        lock.check()
        reach("etl_loaded")
    return result


class Loading:
    """A load in the transaction of its target, up to the commit."""

    def __init__(
        self,
        installation: Installation,
        definition: Definition,
        job: Job,
        output: Output,
        session: Session,
        goal: Target,
    ) -> None:
        self._installation, self._definition = installation, definition
        self._job, self._output, self._session, self._goal = job, output, session, goal

    def execute(self, run_id: str, journal: Journal) -> dict[str, Any]:
        """Everything but the commit. Raises BlockedError if a check blocks it."""
        stands = target.columns_of(self._session, self._goal.table)
        past = journal.latest()
        # A target that is made anew holds nothing of what was read before.
        kept = past.watermark if past is not None and stands is not None else None
        incoming = read(self._installation, self._job, self._session, kept)
        stage = staging.transform(self._session, incoming, self._job.transform, self._job.statement_timeout_s)
        plan = compare(self._output, stage.fields, stands)
        if plan.problems:
            raise JobError(f"The rows do not fit {self._goal.table}: {' '.join(plan.problems)}")
        counts = Counts(read=incoming.rows)
        counts.warn(self._definition.name, incoming.warnings)
        counts.rejected = self._reject(stage, plan, counts, run_id)
        counts.out = stage.rows - counts.rejected
        rows = staging.chosen(stage, plan, rejected=counts.rejected > 0)
        with self._into(plan, counts, fresh=stands is None) as table:
            stored = self._store(table, rows, plan)
            counts.new, counts.changed = stored.new, stored.changed
            try:
                self._check(rows, plan, table, counts, past)
            except BlockedError:
                if counts.rejected:
                    self._keep_rejected(stage, run_id, own=False)
                raise
        if plan.changes and stands is not None:
            counts.said["table"] = plan.changes
        result = counts.result()
        journal.record(run_id, incoming.watermark, result)
        return result

    def _reject(self, stage: Stage, plan: Plan, counts: Counts, run_id: str) -> int:
        rejected = staging.reject(self._session, stage, plan, self._output)
        if not rejected:
            return 0
        reasons = staging.reasons(self._session)
        if rejected == stage.rows:
            self._keep_rejected(stage, run_id, own=False)
            raise JobError(f"No row can be loaded, {rejected:,} were rejected: {'; '.join(reasons)}.")
        counts.said["reasons"] = reasons
        self._keep_rejected(stage, run_id, own=self._goal.own)
        return rejected

    def _keep_rejected(self, stage: Stage, run_id: str, *, own: bool) -> None:
        """Keep them in the transaction of the load, or at once: then they outlast a load that fails."""
        keep_rejected(
            self._installation, self._session, stage, self._definition.id, run_id,
            most=self._job.rejected_kept, own=own,
        )  # fmt: skip

    @contextmanager
    def _into(self, plan: Plan, counts: Counts, *, fresh: bool) -> Generator[Table]:
        """The table that the rows go into: the target, or for mode replace one that takes its place at the end."""
        table = self._goal.table
        if fresh:
            target.make(self._session, self._goal, plan, self._output)
            yield table
            return
        if self._output.mode == "replace":
            aside = replace.build_aside(self._session, table, f"beatline_aside_{self._definition.id.hex[:12]}", plan)
            yield aside
            counts.said["replaced"] = replace.put_in_place(self._session, table, aside, plan)
            return
        target.change(self._session, table, plan)
        if self._output.key:
            target.check_key(self._session, table, self._output.key)
        yield table

    def _store(self, table: Table, rows: str, plan: Plan) -> target.Loaded:
        key = self._output.key
        match self._output.mode:
            case "upsert":
                return target.upsert(self._session, table, rows, plan, key)
            case "append":
                return target.append(self._session, table, rows, plan, key)
            case "replace":
                return target.Loaded(target.insert_last(self._session, table, rows, plan, key), 0)

    def _check(self, rows: str, plan: Plan, table: Table, counts: Counts, past: Past | None) -> None:
        before = None if past is None else int(past.counts.get("out", 0))
        kinds = {take.name: take.stands for take in plan.takes}
        looked_at = checks.Load(rows, kinds, table.sql, self._output.key, counts.out, before)
        blocking: list[str] = []
        warnings: list[str] = []
        for check in self._job.checks:
            found = checks.ask(self._session, check, looked_at)
            (blocking if check.severity == "block" else warnings).extend(found)
        if blocking:
            raise BlockedError(blocking)
        counts.warn(self._definition.name, warnings)
