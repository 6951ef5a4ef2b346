"""What people ask of a job: does it work (`check`), and what would it load (`preview`)?

Both connect for real, at both ends, and undo whatever they try.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from beatline.datasets.table import check_dataset_name
from beatline.definitions import Definition, Finding, open_spec, store
from beatline.errors import BeatlineError, ServiceError
from beatline.ledger.database import guarded
from beatline_tasks.etl import checks, replace, staging, target
from beatline_tasks.etl.archive import first_due, time_kind
from beatline_tasks.etl.contract import Field, Plan, compare
from beatline_tasks.etl.ends import Target, own_session, target_session
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.fieldtypes import misfit
from beatline_tasks.etl.incoming import Incoming, create_table, describe, read
from beatline_tasks.etl.job import Archive, Job, Output, Sql
from beatline_tasks.etl.journal import Journal
from beatline_tasks.etl.session import Session, Table

if TYPE_CHECKING:
    from beatline.installation import Installation

_LOOKED_AT: Final = 10_000
_SHOWN: Final = 10
_ESTIMATE: Final = re.compile(r"rows=(\d+)")


def check(installation: Installation, definition: Definition) -> Finding:
    """Try the job for real at both ends, without reading a row, and say in words what is wrong."""
    try:
        job = open_spec(installation, definition, Job)
        with guarded(installation.settings):
            found = (
                _check_load(installation, job, job.output)
                if job.output is not None
                else _check_archive(installation, job, job.archive)
            )
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))
    if not found.ok or definition.parked is None:
        return found
    with guarded(installation.settings), installation.engine.begin() as conn:
        store.unpark(conn, definition, who="check")
    return Finding(ok=True, text=f"{found.text} It was parked, and runs again.", details=found.details)


def preview(installation: Installation, definition: Definition) -> Finding:
    """Show the first rows as they would be loaded, and keep nothing."""
    try:
        job = open_spec(installation, definition, Job)
        if job.output is None:
            raise JobError("It archives: `check` says what is due, and there are no rows to show.")
        with guarded(installation.settings):
            return _preview(installation, job, job.output)
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))


def rewind(installation: Installation, definition: Definition) -> Finding:
    """Forget the watermark: the next run reads the whole input again; the key tells known rows apart."""
    try:
        job = open_spec(installation, definition, Job)
        if job.output is None or job.watermark is None:
            raise JobError("It has no watermark: each run reads the whole input.")
        with guarded(installation.settings), target_session(installation, job, job.output) as (session, goal):
            journal = Journal(session, goal, definition.id)
            journal.make()
            journal.forget_watermark()
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))
    return Finding(ok=True, text=f"The next run reads the whole input of {definition.name} again.")


def _check_load(installation: Installation, job: Job, output: Output) -> Finding:
    with target_session(installation, job, output, keep=False) as (session, goal):
        incoming, explained = describe(installation, job, session)
        fields, transform_plan = _transformed(session, incoming, job)
        staging.refuse_twice(fields)
        stands = target.columns_of(session, goal.table)
        plan = compare(output, fields, stands)
        problems = [*plan.problems, *_wrong_checks(job, plan)]
        if not problems:
            _try(session, goal, job, output, plan, fields, fresh=stands is None)
    rows = _ESTIMATE.search(explained[0])
    details: dict[str, Any] = {
        "input": {one.name: one.kind for one in incoming.fields},
        "input_rows_estimated": int(rows[1]) if rows else None,
        "fields": {one.name: one.kind for one in fields},
        "target": f"{goal.table}, {'which would be made' if stands is None else 'which stands'}",
        "plan": transform_plan or explained,
    }
    if problems:
        return Finding(ok=False, text=" ".join(problems), details=details)
    changes = f" A load {' and '.join(plan.changes)}." if plan.changes else ""
    text = f"It works: input, {'transform, ' if job.transform else ''}target and contract fit.{changes}{_doubts(plan)}"
    return Finding(ok=True, text=text, details=details)


def _transformed(session: Session, incoming: Incoming, job: Job) -> tuple[list[Field], list[str]]:
    if job.transform is not None and job.transform.engine == "duckdb":
        from beatline_tasks.etl.duck import duck_fields

        return duck_fields(incoming, job.transform.sql, job.statement_timeout_s), []
    return staging.transformed_fields(session, incoming, job.transform)


def _try(
    session: Session, goal: Target, job: Job, output: Output, plan: Plan, fields: list[Field], *, fresh: bool
) -> None:
    """Let the server say whether the load and the checks in SQL would be taken, without executing them."""
    if fresh:
        target.make(session, goal, plan, output)
    elif output.mode == "replace":
        replace.refuse_cascades(session, goal.table)
    elif output.key:
        target.check_key(session, goal.table, output.key)
    if not fresh and (plan.added or plan.widened):
        return  # trying the change would lock the table
    create_table(session, staging.OUTPUT, fields)
    rows = staging.chosen(staging.Stage(staging.OUTPUT, fields, 0), plan, rejected=False)
    columns = target.names(take.name for take in plan.takes)
    insert = f"INSERT INTO {goal.table.sql} ({columns}) SELECT {columns} FROM ({rows}) AS chosen"
    session.run(f"EXPLAIN {insert}", what="The load")
    kinds = {take.name: take.stands for take in plan.takes}
    looked_at = checks.Load(rows, kinds, goal.table.sql, output.key, 0, None)
    for one in job.checks:
        if isinstance(one, Sql):
            session.rows(f"EXPLAIN {checks.statement(one, looked_at)}", what=f"The check {one.name!r}")


def _wrong_checks(job: Job, plan: Plan) -> list[str]:
    kinds = {take.name: take.stands for take in plan.takes}
    return [
        f"checks.{number}: {one.type} names {', '.join(unknown)}, which the load does not have."
        for number, one in enumerate(job.checks)
        if (unknown := checks.unknown_columns(one, kinds))
    ]


def _doubts(plan: Plan) -> str:
    """What only the rows can tell."""
    looked_at = [
        f"{take.name} ({take.came} into {take.stands})"
        for take in plan.takes
        if misfit(take.name, take.came, take.stands, "valid") is not None
    ]
    said = ""
    if looked_at:
        said += f" Row by row: {', '.join(looked_at)}; what the column cannot hold unchanged is rejected."
    if plan.refused:
        said += f" Rows that fill {', '.join(plan.refused)} are rejected."
    return said


def _preview(installation: Installation, job: Job, output: Output) -> Finding:
    with target_session(installation, job, output, keep=False) as (session, goal):
        incoming = read(installation, job, session, None, limit=_LOOKED_AT)
        stage = staging.transform(session, incoming, job.transform, job.statement_timeout_s)
        plan = compare(output, stage.fields, target.columns_of(session, goal.table))
        if plan.problems:
            return Finding(ok=False, text=" ".join(plan.problems))
        rejected = staging.reject(session, stage, plan, output)
        rows = staging.chosen(stage, plan, rejected=rejected > 0)
        shown = session.rows(f"SELECT * FROM ({rows}) AS chosen LIMIT {_SHOWN}", what="The load")
        reasons = staging.reasons(session) if rejected else []
    names = [take.name for take in plan.takes]
    text = f"{incoming.rows:,} rows came and give {stage.rows:,}."
    if incoming.rows == _LOOKED_AT:
        text = f"Of the first {_LOOKED_AT:,} rows of the input alone: they give {stage.rows:,}."
    if rejected:
        text += f" {rejected:,} would be rejected: {'; '.join(reasons)}."
    return Finding(ok=True, text=text, rows=tuple(dict(zip(names, row, strict=False)) for row in shown))


def _check_archive(installation: Installation, job: Job, archive: Archive | None) -> Finding:
    assert archive is not None  # noqa: S101  # the model has it so
    check_dataset_name(archive.dataset)
    table = Table(installation.settings.data_schema, archive.dataset)
    with own_session(installation, job, keep=False) as session:
        time_kind(session, table, archive)
        session.run(f"EXPLAIN DELETE FROM {table.sql}", what="Deleting archived rows")
        due = first_due(session, table, archive)
    if due is None:
        return Finding(ok=True, text=f"It works: no row of {table} is {archive.older_than_days} days old or older.")
    return Finding(ok=True, text=f"It works: {due.day} is the first day of {table} to be archived.")
