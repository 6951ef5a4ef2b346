"""The two ends of a job: sessions in the installation's own database, or in that of a named connection."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from beatline.datasets.table import check_dataset_name, find_dataset
from beatline.errors import TransientError
from beatline.ledger.database import place, quoted, schema_of
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.job import Input, Job, Output
from beatline_tasks.etl.session import Session, Table

if TYPE_CHECKING:
    from beatline.installation import Installation


@dataclass(frozen=True, slots=True)
class Target:
    """The table that a job fills, and the table beside it that says what was loaded.

    `own` is whether it is in the installation's own database.
    """

    table: Table
    journal: Table
    own: bool


@contextmanager
def own_session(installation: Installation, job: Job, *, keep: bool = True) -> Generator[Session]:
    """A transaction in the installation's database, committed at the end if it is to be kept.

    Names without a schema mean datasets.
    """
    settings = installation.settings
    with installation.engine.connect() as conn:
        conn.detach()  # not back into the pool: a user's SELECT may have set something for the rest of the session
        with conn.begin():
            session = Session(conn, f"PostgreSQL at {place(settings)}")
            session.prepare(job.statement_timeout_s, f"{quoted(settings.data_schema)}, public")
            yield session
            if not keep:
                conn.rollback()


@contextmanager
def connected_session(
    installation: Installation, job: Job, name: str, *, read_only: bool, keep: bool = True
) -> Generator[Session]:
    """A transaction in the database of a named connection, committed at the end if it is to be kept."""
    from beatline.connections.sql import sql_session

    limit_s = job.statement_timeout_s
    with sql_session(installation, name, read_only=read_only, statement_timeout_s=limit_s) as conn:
        try:
            with conn.begin():
                session = Session(conn, f"connection {name!r}")
                session.prepare(limit_s)
                yield session
                if not keep:
                    conn.rollback()
        except DBAPIError as exc:  # at BEGIN or COMMIT; what statements raise comes out in words already
            raise TransientError(f"The connection {name!r} was lost: {type(exc.orig).__name__}.") from exc


@contextmanager
def target_session(
    installation: Installation, job: Job, output: Output, *, keep: bool = True
) -> Generator[tuple[Session, Target]]:
    """The session in which a load is done, and its target; one load that is to be kept at a time."""
    if output.connection is None:
        check_dataset_name(output.table)
        settings = installation.settings
        with own_session(installation, job, keep=keep) as session:
            table = Table(settings.data_schema, output.table)
            if keep:
                _one_writer(session, f"beatline dataset {output.table}")  # as open_dataset does
            if find_dataset(session.conn, output.table) is not None:
                raise JobError(
                    f"The dataset {output.table} is filled by a source: set another output.table, "
                    "and let the job read the dataset."
                )
            yield session, Target(table, Table(schema_of(session.conn), "etl_loads"), own=True)
        return
    with connected_session(installation, job, output.connection, read_only=False, keep=keep) as session:
        table = named(session, output.table)
        if keep:
            _one_writer(session, f"beatline target {table}")
        yield session, Target(table, Table(table.schema, "beatline_loads"), own=False)


@contextmanager
def source_session(installation: Installation, job: Job, given: Input) -> Generator[Session]:
    """A session that reads the input, and can write nothing."""
    if given.connection is not None:
        with connected_session(installation, job, given.connection, read_only=True) as session:
            yield session
        return
    with own_session(installation, job) as session:
        session.run("SET TRANSACTION READ ONLY")
        yield session


def named(session: Session, name: str) -> Table:
    """The table of this name; without a schema, in the first of the connection's search path that there is."""
    schema, _, table = name.rpartition(".")
    if schema:
        return Table(schema, table)
    current = session.one("SELECT current_schema()")[0]
    if current is None:
        raise JobError(f"{session.place} has no schema to look for {name} in: write schema.{name}.")
    return Table(str(current), name)


def stands(session: Session, table: Table) -> bool:
    """Whether there is such a table, view or foreign table."""
    name = session.let("table", table.sql)
    return session.one(f"SELECT to_regclass({name}) IS NOT NULL")[0] is True


def input_query(installation: Installation, session: Session, given: Input) -> str:
    """The SELECT that reads the whole input. Raises JobError, naming what comes close, if there is no such table."""
    if given.query is not None:
        return given.query
    if given.table is not None:
        table = named(session, given.table)
    else:
        table = Table(installation.settings.data_schema, given.dataset or "")
    if not stands(session, table):
        raise JobError(absent(session, table, "dataset" if given.dataset else "table"))
    return f"SELECT * FROM {table.sql}"


def absent(session: Session, table: Table, what: str) -> str:
    """That there is no such table, with the names that come close."""
    from difflib import get_close_matches

    schema = session.let("schema", table.schema)
    found = session.rows(f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}")
    close = get_close_matches(table.name, [str(row[0]) for row in found], n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"There is no {what} {table.name} in the schema {table.schema} of {session.place}.{hint}"


def _one_writer(session: Session, name: str) -> None:
    value = session.let("lock", name)
    session.run(f"SELECT pg_advisory_xact_lock(hashtextextended({value}, 0))")
