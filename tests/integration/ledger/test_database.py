"""One engine a process, nothing shared over a fork, our schema's name everywhere, and no secret in an error."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from beatline.errors import SchemaError, ServiceError
from beatline.ledger.database import guarded, open_engine, place, sql, sqlstate
from beatline.ledger.model import runs

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings


def test_there_is_one_engine_for_one_database(settings: Settings, make_settings: MakeSettings) -> None:
    assert open_engine(settings) is open_engine(make_settings())
    assert open_engine(settings) is not open_engine(make_settings(database_schema="other"))


def test_a_session_speaks_utc_and_does_not_wait_for_ever(settings: Settings) -> None:
    with open_engine(settings).connect() as conn:
        shown = {
            name: conn.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("timezone", "statement_timeout", "lock_timeout", "synchronous_commit", "application_name")
        }
    assert shown == {
        "timezone": "UTC",
        "statement_timeout": "5min",
        "lock_timeout": "30s",
        "synchronous_commit": "on",
        "application_name": "beatline",
    }


def test_a_forked_child_never_uses_its_parents_socket(settings: Settings) -> None:
    engine = open_engine(settings)
    with engine.connect() as conn:
        ours = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child says which backend answered it, and leaves without pytest noticing
        try:
            with open_engine(settings).connect() as conn:
                os.write(writer, str(conn.execute(text("SELECT pg_backend_pid()")).scalar_one()).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    theirs = int(os.read(reader, 100))
    assert theirs != ours
    with engine.connect() as conn:  # the parent's own connection still works
        assert conn.execute(text("SELECT pg_backend_pid()")).scalar_one() == ours


def test_statements_reach_the_schema_that_the_settings_name(make_settings: MakeSettings) -> None:
    settings = make_settings(database_schema="elsewhere", data_schema="elsewhere_data")
    with open_engine(settings).begin() as conn:
        conn.execute(text("CREATE SCHEMA elsewhere; CREATE SCHEMA elsewhere_data"))
        conn.execute(text("CREATE TABLE elsewhere.runs (id text); INSERT INTO elsewhere.runs VALUES ('{schema}')"))
        conn.execute(text("CREATE TABLE elsewhere_data.weather (id text)"))
        assert conn.execute(select(runs.c.id)).scalars().all() == ["{schema}"]
        assert conn.execute(sql(conn, "SELECT id, '{}' FROM {schema}.runs")).all() == [("{schema}", "{}")]
        assert conn.execute(sql(settings, "SELECT id FROM {data}.weather")).all() == []


def test_an_error_shows_no_parameters(settings: Settings) -> None:
    with open_engine(settings).connect() as conn, pytest.raises(DBAPIError) as caught:
        conn.execute(text("SELECT CAST(:secret AS text) FROM no_such_table"), {"secret": "hunter2"})
    assert sqlstate(caught.value) == "42P01"
    assert "hunter2" not in str(caught.value)


def test_what_a_person_can_mend_is_said_in_one_sentence(settings: Settings, make_settings: MakeSettings) -> None:
    missing = pytest.raises(SchemaError, match="run `beatline db upgrade`")
    with missing, guarded(settings), open_engine(settings).connect() as conn:
        conn.execute(text("SELECT 1 FROM nothing.here"))
    nowhere = make_settings(database_url="postgresql://me:hunter2@127.0.0.1:1/x")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:1/x does not answer") as caught, guarded(nowhere):
        open_engine(nowhere).connect()
    assert "hunter2" not in str(caught.value)
    assert place(nowhere) == "127.0.0.1:1/x"


def test_workers_import_neither_the_orm_nor_alembic() -> None:
    code = (
        "import sys, beatline.ledger.database, beatline.ledger.store, beatline.ledger.history; "
        "print([m for m in ('sqlalchemy.orm', 'alembic') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
