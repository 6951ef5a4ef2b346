"""The incoming rows: in place where they lie in the target's database, else streamed there; only what is new, if asked.

In place the upper bound is read first: a row that is committed between two looks is read by one of them or by the next
run, never counted and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from beatline.ledger.database import quoted
from beatline_tasks.etl.contract import Field
from beatline_tasks.etl.ends import input_query, source_session
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.fieldtypes import FLOATS, INTEGERS, NAIVE, TIMESTAMP, base, is_text
from beatline_tasks.etl.job import Input, Job, Watermark
from beatline_tasks.etl.piping import stream
from beatline_tasks.etl.session import Session, native

if TYPE_CHECKING:
    from beatline.installation import Installation

WHAT: Final = "The input"
INPUT: Final = "pg_temp.input"


@dataclass(frozen=True, slots=True)
class Incoming:
    """Rows under the name `input`; `prefix` is what a statement that reads them begins with.

    `table` is the temporary table they are in, None where they are read in place.
    """

    fields: list[Field]
    rows: int
    prefix: str
    table: str | None
    watermark: dict[str, Any] | None


def read(
    installation: Installation,
    job: Job,
    session: Session,
    kept: dict[str, Any] | None,
    *,
    limit: int | None = None,
) -> Incoming:
    """The rows of a job's input in the session of its target; with `limit` only as many, to have a look."""
    given, output = job.input, job.output
    assert given is not None  # noqa: S101  # the model has it so
    assert output is not None  # noqa: S101  # the model has it so
    if given.connection == output.connection:
        return _in_place(installation, job, given, session, kept, limit)
    with source_session(installation, job, given) as source:
        return _streamed(installation, job, given, source, session, kept, limit)


def describe(installation: Installation, job: Job, session: Session) -> tuple[Incoming, list[str]]:
    """The incoming rows without reading one, and the server's plan for reading them. Raises as `read` does."""
    given, output = job.input, job.output
    assert given is not None  # noqa: S101  # the model has it so
    assert output is not None  # noqa: S101  # the model has it so
    if given.connection == output.connection:
        query = input_query(installation, session, given)
        fields = session.fields(query, what=WHAT)
        incoming = Incoming(fields, 0, _cte(query, ""), None, None)
        plan = session.rows(f"EXPLAIN {query}", what=WHAT)
    else:
        with source_session(installation, job, given) as source:
            query = input_query(installation, source, given)
            found = source.fields(query, what=WHAT)
            plan = source.rows(f"EXPLAIN {query}", what=WHAT)
        fields = _as_streamed(found)
        create_table(session, INPUT, fields)
        incoming = Incoming(fields, 0, "", INPUT, None)
    if job.watermark is not None:
        _kind_of(job.watermark, fields)
    return incoming, [str(row[0]) for row in plan]


def _in_place(
    installation: Installation,
    job: Job,
    given: Input,
    session: Session,
    kept: dict[str, Any] | None,
    limit: int | None,
) -> Incoming:
    query = input_query(installation, session, given)
    fields = session.fields(query, what=WHAT)
    low = _lower(session, job.watermark, fields, kept)
    if limit is not None:
        query, low = f"SELECT * FROM (\n{query}\n) AS wanted {low} LIMIT {limit}", ""
    if job.watermark is None or limit is not None:
        prefix = _cte(query, "")
        rows = session.one(f"{prefix} SELECT count(*) FROM input", what=WHAT)[0]
        return Incoming(fields, int(rows), prefix, None, None)
    kind = _kind_of(job.watermark, fields)
    name = quoted(job.watermark.field)
    counted = f"{_cte(query, low)} SELECT count(*), CAST(max({name}) AS text) FROM input"
    rows, high = session.one(counted, what=WHAT)
    if high is None:
        return Incoming(fields, int(rows), _cte(query, low), None, kept)
    bound = f"{name} <= CAST({session.let('high', str(high))} AS {kind})"
    # A row that has no value may be anywhere: it is read each time, and its key tells it apart.
    both = f"{low or 'WHERE true'} AND ({bound} OR {name} IS NULL)"
    return Incoming(fields, int(rows), _cte(query, both), None, _mark(job.watermark, kind, str(high)))


def _streamed(
    installation: Installation,
    job: Job,
    given: Input,
    source: Session,
    session: Session,
    kept: dict[str, Any] | None,
    limit: int | None,
) -> Incoming:
    query = input_query(installation, source, given)
    found = source.fields(query, what=WHAT)
    low = _lower(source, job.watermark, found, kept)
    columns = ", ".join(quoted(one.name) if native(one.kind) else f"CAST({quoted(one.name)} AS text)" for one in found)
    fields = _as_streamed(found)
    create_table(session, INPUT, fields)
    bounded = "" if limit is None else f" LIMIT {limit}"
    wanted = f"SELECT {columns} FROM (\n{query}\n) AS asked {low}{bounded}"
    rows = stream(source, wanted, session, INPUT, what=WHAT)
    watermark = kept
    if job.watermark is not None and rows:
        high = session.one(f"SELECT CAST(max({quoted(job.watermark.field)}) AS text) FROM {INPUT}")[0]
        if high is not None and limit is None:
            watermark = _mark(job.watermark, _kind_of(job.watermark, fields), str(high))
    return Incoming(fields, rows, "", INPUT, watermark)


def _as_streamed(fields: list[Field]) -> list[Field]:
    """A type that the other database may not know comes as text."""
    return [one if native(one.kind) else Field(one.name, "text") for one in fields]


def create_table(session: Session, name: str, fields: list[Field]) -> None:
    """A temporary table with these fields, for this transaction."""
    columns = ", ".join(f"{quoted(one.name)} {one.kind}" for one in fields)
    session.run(f"CREATE TEMPORARY TABLE {name} ({columns}) ON COMMIT DROP", what=WHAT)


def _cte(query: str, where: str) -> str:
    return f"WITH input AS (SELECT * FROM (\n{query}\n) AS asked {where})"


def _mark(watermark: Watermark, kind: str, value: str) -> dict[str, Any]:
    return {"field": watermark.field, "type": kind, "value": value}


def _kind_of(watermark: Watermark, fields: list[Field]) -> str:
    kind = next((one.kind for one in fields if one.name == watermark.field), None)
    if kind is None:
        names = ", ".join(one.name for one in fields)
        raise JobError(f"watermark.field {watermark.field!r} is no field of the input; its fields are: {names}.")
    plain = base(kind)
    moment, number = plain in ("date", TIMESTAMP, NAIVE), plain in INTEGERS or plain in FLOATS or plain == "numeric"
    if not (moment or number or is_text(plain)):
        raise JobError(
            f"watermark.field {watermark.field!r} is {kind}: it must be a number, a date, a time stamp or text."
        )
    if watermark.overlap_s and not moment:
        raise JobError(f"watermark.overlap_s is for dates and time stamps; {watermark.field!r} is {kind}.")
    if watermark.overlap and not number:
        raise JobError(f"watermark.overlap is for numbers; {watermark.field!r} is {kind}: overlap_s?")
    return plain


def _lower(session: Session, watermark: Watermark | None, fields: list[Field], kept: dict[str, Any] | None) -> str:
    """The condition that leaves out what was read before; none on the first run, or if field or type are others."""
    if watermark is None:
        return ""
    kind = _kind_of(watermark, fields)
    if kept is None or kept.get("field") != watermark.field or kept.get("type") != kind:
        return ""
    name = quoted(watermark.field)
    low = f"CAST({session.let('low', str(kept['value']))} AS {kind})"
    if watermark.overlap_s:
        seconds = session.let("overlap", repr(watermark.overlap_s))
        if kind == "date":
            low = f"({low} - CAST(ceil(CAST({seconds} AS double precision) / 86400) AS integer))"
        else:
            low = f"({low} - make_interval(secs => CAST({seconds} AS double precision)))"
    elif watermark.overlap:
        units = session.let("overlap", repr(watermark.overlap))
        of_kind = f"CAST(ceil(CAST({units} AS numeric)) AS bigint)" if kind in INTEGERS else f"CAST({units} AS {kind})"
        low = f"({low} - {of_kind})"
    return f"WHERE ({name} >= {low} OR {name} IS NULL)"
