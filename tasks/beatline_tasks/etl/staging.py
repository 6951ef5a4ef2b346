"""The rows of a load before they go into the target: transformed, and each either fit for its columns or rejected.

They lie in a temporary table; a row is known by its `ctid` there, which also is the order in which rows came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from beatline.ledger.database import quoted
from beatline.selects import literal
from beatline_tasks.etl.contract import Field, Plan
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.fieldtypes import misfit, taken
from beatline_tasks.etl.incoming import Incoming, create_table
from beatline_tasks.etl.job import Output, Transform
from beatline_tasks.etl.session import Session

OUTPUT: Final = "pg_temp.beatline_output"
REJECTED: Final = "pg_temp.beatline_rejected"
WHAT: Final = "The transform"
_VALID_SINCE: Final = 160000
_VALID: Final = """
    CREATE OR REPLACE FUNCTION pg_temp.beatline_valid(value text, kind text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        IF value IS NOT NULL THEN EXECUTE format('SELECT CAST(%L AS %s)', value, kind); END IF;
        RETURN true;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
        RETURN false;
    END $$
"""
_SHOWN_CHARS: Final = 40
_REASONS: Final = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """Staged rows: the temporary table and its fields."""

    table: str
    fields: list[Field]
    rows: int


def transform(session: Session, incoming: Incoming, given: Transform | None, statement_timeout_s: float) -> Stage:
    """Stage the rows that the transform makes of the incoming ones; without one, the incoming rows themselves."""
    if given is None and incoming.table is not None:
        return Stage(incoming.table, incoming.fields, incoming.rows)
    if given is not None and given.engine == "duckdb":
        from beatline_tasks.etl.duck import transform_in_duckdb

        return Stage(OUTPUT, *transform_in_duckdb(session, incoming, given.sql, statement_timeout_s))
    if incoming.table is not None:
        session.run(f"ANALYZE {incoming.table}")  # the planner knows nothing of a table that was just filled
    sql = f"{incoming.prefix} SELECT * FROM (\n{'TABLE input' if given is None else given.sql}\n) AS transformed"
    with session.read_only():
        fields = session.fields(sql, what=WHAT)
    refuse_twice(fields)
    create_table(session, OUTPUT, fields)
    with session.read_only():
        insert = f"INSERT INTO {OUTPUT} {sql}"
        return Stage(OUTPUT, fields, session.run(insert, what=WHAT))


def transformed_fields(session: Session, incoming: Incoming, given: Transform | None) -> tuple[list[Field], list[str]]:
    """The fields a transform in PostgreSQL would give, and the server's plan for it, without reading a row."""
    sql = f"{incoming.prefix} SELECT * FROM (\n{'TABLE input' if given is None else given.sql}\n) AS transformed"
    with session.read_only():
        explained = [str(row[0]) for row in session.rows(f"EXPLAIN {sql}", what=WHAT)]
        return session.fields(sql, what=WHAT), explained


def refuse_twice(fields: list[Field]) -> None:
    """Raises JobError if two fields have the same name: no table could hold them."""
    names = [one.name for one in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise JobError(f"{WHAT} gives the field {', '.join(twice)} twice: name each once, with AS.")
    if not names:
        raise JobError(f"{WHAT} gives no field.")


def reject(session: Session, stage: Stage, plan: Plan, output: Output) -> int:
    """Set aside the rows that cannot go into the target, each with its reason; how many."""
    said = _reasons(session, plan, output)
    session.run(f'CREATE TEMPORARY TABLE {REJECTED} ("row" tid, reason text) ON COMMIT DROP')
    if not said:
        return 0
    return session.run(
        f"INSERT INTO {REJECTED} SELECT * FROM (SELECT o.ctid, CASE {' '.join(said)} END AS reason "
        f"FROM {stage.table} o) AS looked WHERE reason IS NOT NULL",
        what="The look for rows to reject",
    )


def reasons(session: Session) -> list[str]:
    """The first few reasons of rejected rows."""
    first = f'SELECT reason FROM {REJECTED} ORDER BY "row" LIMIT {_REASONS}'
    return [str(row[0]) for row in session.rows(first)]


def chosen(stage: Stage, plan: Plan, *, rejected: bool) -> str:
    """The SELECT of the rows that go into the target, as its columns hold them."""
    left_out = f' WHERE NOT EXISTS (SELECT FROM {REJECTED} r WHERE r."row" = o.ctid)' if rejected else ""
    columns = ", ".join(
        f"{taken(f'o.{quoted(take.name)}', take.came, take.stands)} AS {quoted(take.name)}" for take in plan.takes
    )
    return f"SELECT {columns}, o.ctid AS beatline_row FROM {stage.table} o{left_out}"


def _reasons(session: Session, plan: Plan, output: Output) -> list[str]:
    """The branches of a CASE that says what is wrong with a row."""
    said: list[str] = []
    valid = _valid(session)
    for take in plan.takes:
        column = f"o.{quoted(take.name)}"
        wrong = misfit(column, take.came, take.stands, valid)
        if wrong is not None:
            shown = f"left(CAST({column} AS text), {_SHOWN_CHARS})"
            told = f"{literal(take.name + ': ')} || quote_literal({shown}) || {literal(f' is no {take.stands}')}"
            said.append(f"WHEN {wrong} THEN {told}")
    for take in plan.takes:
        value = taken(f"o.{quoted(take.name)}", take.came, take.stands)
        if take.name in output.key:
            said.append(f"WHEN {value} IS NULL THEN {literal(f'the key field {take.name!r} is missing')}")
        elif take.not_null:
            said.append(f"WHEN {value} IS NULL THEN {literal(f'{take.name} is missing, and its column takes no null')}")
    for name in plan.refused:
        told = literal(f"it has the field {name!r}, which the table has not")
        said.append(f"WHEN o.{quoted(name)} IS NOT NULL THEN {told}")
    return said


def _valid(session: Session) -> str:
    """The function that says whether a text reads as a type: the server's own, where it has one."""
    if int(session.one("SELECT current_setting('server_version_num')")[0]) >= _VALID_SINCE:
        return "pg_input_is_valid"
    session.run(_VALID)
    return "pg_temp.beatline_valid"
