"""The incoming rows: in place where they lie in the target's database, else streamed there; only what is new, if asked.

In place the upper bound is read first: a row that is committed between two looks is read by one of them or by the next
run, never counted and left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
_MOMENTS: Final = ("date", TIMESTAMP, NAIVE)


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
    warnings: list[str] = field(default_factory=list[str])


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
        with session.read_only():
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
    with session.read_only():
        fields = session.fields(query, what=WHAT)
    low = _lower(session, job.watermark, fields, kept)
    if limit is not None:
        query, low = f"SELECT * FROM (\n{query}\n) AS wanted {low} LIMIT {limit}", ""
    if job.watermark is None or limit is not None:
        prefix = _cte(query, "")
        with session.read_only():
            rows = session.one(f"{prefix} SELECT count(*) FROM input", what=WHAT)[0]
        return Incoming(fields, int(rows), prefix, None, None)
    kind = _kind_of(job.watermark, fields)
    name = quoted(job.watermark.field)
    counted = f"{_cte(query, low)} SELECT count(*), {_highest(name, kind)} FROM input"
    with session.read_only():
        rows, high = session.one(counted, what=WHAT)
    if high is None:
        return Incoming(fields, int(rows), _cte(query, low), None, kept)
    bound = f"{name} <= CAST({session.let('high', str(high))} AS {kind})"
    # A row that has no value, or an endless one, may be anywhere: it is read each time, and its key tells it apart.
    both = f"{low or 'WHERE true'} AND ({bound} OR {name} IS NULL OR NOT {_placed(name, kind)})"
    mark, warnings = _mark(job.watermark, kind, str(high)), _doubts(session, job.watermark, kind, str(high))
    return Incoming(fields, int(rows), _cte(query, both), None, mark, warnings)


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
    watermark, warnings = kept, list[str]()
    if job.watermark is not None and rows and limit is None:
        kind = _kind_of(job.watermark, fields)
        high = session.one(f"SELECT {_highest(quoted(job.watermark.field), kind)} FROM {INPUT}")[0]
        if high is not None:
            watermark = _mark(job.watermark, kind, str(high))
            warnings = _doubts(session, job.watermark, kind, str(high))
    return Incoming(fields, rows, "", INPUT, watermark, warnings)


def _as_streamed(fields: list[Field]) -> list[Field]:
    """A type that the other database may not know comes as text."""
    return [one if native(one.kind) else Field(one.name, "text") for one in fields]


def create_table(session: Session, name: str, fields: list[Field]) -> None:
    """A temporary table with these fields, for this transaction."""
    columns = ", ".join(f"{quoted(one.name)} {one.kind}" for one in fields)
    session.run(f"CREATE TEMPORARY TABLE {name} ({columns}) ON COMMIT DROP", what=WHAT)


def _cte(query: str, where: str) -> str:
    return f"WITH input AS (SELECT * FROM (\n{query}\n) AS asked {where})"


def _placed(name: str, kind: str) -> str:
    """The SQL condition of a value after which others can come: no infinity, no NaN."""
    if kind in _MOMENTS:
        return f"isfinite({name})"
    if kind in FLOATS or kind == "numeric":  # as text: before PostgreSQL 14 no numeric was infinite
        return f"(CAST({name} AS text) NOT IN ('NaN', 'Infinity', '-Infinity'))"
    return "true"


def _highest(name: str, kind: str) -> str:
    return f"CAST(max({name}) FILTER (WHERE {_placed(name, kind)}) AS text)"


def _doubts(session: Session, watermark: Watermark, kind: str, high: str) -> list[str]:
    """What is to be told of a watermark in the future: rows that come until then with their own time are not read."""
    if kind not in _MOMENTS:
        return []
    ahead = f"CAST({session.let('high', high)} AS {kind}) > clock_timestamp() + interval '1 day'"
    if not session.one(f"SELECT {ahead}")[0]:
        return []
    told = (
        f"The watermark {watermark.field} is at {high}, more than a day ahead: rows before it are not read any more, "
        "unless within the overlap. Correct the row, then `beatline jobs rewind`."
    )
    return [told]


def _mark(watermark: Watermark, kind: str, value: str) -> dict[str, Any]:
    return {"field": watermark.field, "type": kind, "value": value}


def _kind_of(watermark: Watermark, fields: list[Field]) -> str:
    kind = next((one.kind for one in fields if one.name == watermark.field), None)
    if kind is None:
        names = ", ".join(one.name for one in fields)
        raise JobError(f"watermark.field {watermark.field!r} is no field of the input; its fields are: {names}.")
    plain = base(kind)
    moment, number = plain in _MOMENTS, plain in INTEGERS or plain in FLOATS or plain == "numeric"
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
