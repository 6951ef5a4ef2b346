"""What a user's SELECT cannot do: leave its parentheses, write, or set what later statements rely on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from beatline.errors import DefinitionError
from beatline.selects import one_select
from beatline_tasks.etl.errors import JobError

if TYPE_CHECKING:
    from beatline.definitions import Definition

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]

OUTPUT = {"table": "t", "mode": "upsert", "key": ["id"]}
INSIDE = ") AS x; SET beatline.escaped TO 'yes'; SELECT * FROM (SELECT 1"
PIECES = [
    "'", "''", "\\", "\\'", "E'", "e'", "name'", "U&'", '"', "$$", "$a$", "€$$", "a$$", "1$$", "$", "--", "/*", "*/",
    "\r", "\n", "\t", "\v", "\f", "\x1c", "\x85", "\u2028", "\u00a0", " ", "é", "a", "1", ",", "(", ")", "AS ",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(postgres: str) -> Iterator[Any]:
    connection = psycopg2.connect(postgres.replace("postgresql+psycopg2:", "postgresql:"))
    yield connection
    connection.close()


def escapes(server: Any, sql: str) -> bool:
    """Whether the server sees another statement than the one in parentheses."""
    with server.cursor() as cursor:
        try:
            cursor.execute(f"SELECT * FROM (\n{sql}\n) AS x")  # noqa: S608  # the escape is what is tried
            cursor.execute("SELECT current_setting('beatline.escaped', true)")
            return bool(cursor.fetchone()[0] == "yes")
        except psycopg2.Error:
            return False  # refused as a whole, before anything was executed
        finally:
            server.rollback()


def test_the_server_shows_what_an_escape_is(server: Any) -> None:
    assert escapes(server, f"SELECT 1 --\r{INSIDE}")
    assert escapes(server, f"SELECT 1 AS €$${INSIDE} AS €$$")
    assert escapes(server, f"SELECT name'\\'{INSIDE}, name'\\'")
    assert escapes(server, f"SELECT E'a'\n'\\' '{INSIDE} --'")
    assert not escapes(server, "SELECT 1")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=5), st.lists(st.sampled_from(PIECES), max_size=5))
@example(["--", "\r"], [])
@example([" AS ", "€$$"], ["AS ", "€$$"])
@example([",", "name'", "\\", "'"], [",", "name'", "\\", "'", "--'"])
@example([",", "E'", "'", "\n", "'", "\\'", "'"], ["--", "'"])
def test_what_is_taken_as_one_select_is_one_to_the_server(server: Any, before: list[str], after: list[str]) -> None:
    sql = f"SELECT 1 {''.join(before)}{INSIDE}{''.join(after)}"
    try:
        taken = one_select(sql)
    except ValueError:
        return
    assert not escapes(server, taken)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM input --\r) AS x) AS y; COMMIT; DELETE FROM v; SELECT * FROM (SELECT * FROM (SELECT 2 AS id",
        "SELECT 1 AS id, 2 AS €$$) AS x; COMMIT; DELETE FROM v; SELECT * FROM (SELECT 1 AS id, 2 AS €$$",
        "SELECT name'\\'; COMMIT; DELETE FROM v; --'",
    ],
)
def test_an_escape_is_refused_where_it_is_defined(add_job: AddJob, sql: str) -> None:
    with pytest.raises(DefinitionError, match=r"transform\.sql: "):
        add_job("sly", input={"dataset": "src"}, output=OUTPUT, transform={"sql": sql})
    with pytest.raises(DefinitionError, match=r"input\.query: "):
        add_job("sly", input={"connection": "shop", "query": sql}, output=OUTPUT)


def test_settings_made_by_a_select_do_not_outlast_it(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    other = "11111111-1111-1111-1111-111111111111"
    execute("CREATE TABLE src (id int); INSERT INTO src VALUES (1)")
    sets = ", ".join(
        f"set_config('{name}', '{value}', true) AS s{number}"
        for number, (name, value) in enumerate(
            [
                ("beatline.job", other),
                ("statement_timeout", "0"),
                ("search_path", "pg_temp"),
                ("timezone", "Asia/Tokyo"),
            ]
        )
    )
    ask = "SELECT 1 FROM output WHERE current_setting('{}') <> '{}'"
    expected = {"statement_timeout": "15min", "search_path": "beatline_data, public", "timezone": "UTC"}
    checks = [{"type": "sql", "name": name, "sql": ask.format(name, value)} for name, value in expected.items()]
    job = add_job(
        "a", input={"dataset": "src"}, output=OUTPUT, checks=checks,
        transform={"sql": f"SELECT id, {sets} FROM input"},  # noqa: S608  # of the test's own
    )  # fmt: skip
    assert load("a", "run-1")["new"] == 1
    assert rows("SELECT job_id FROM beatline.etl_loads") == [{"job_id": job.id}]
    assert load("a", "run-1")["already"] is True


def test_a_name_is_a_name_whatever_a_select_sets(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    name = "\\' END FROM pg_temp.beatline_output o)x;DELETE FROM victim;--"
    execute(
        "CREATE TABLE src (id int); INSERT INTO src VALUES (1); CREATE TABLE victim AS SELECT 1 AS x;"  # noqa: S608
        f'CREATE TABLE t (id int PRIMARY KEY, "{name}" int NOT NULL)'
    )
    sets = "length(set_config('standard_conforming_strings', 'off', true))"
    sql = f'SELECT id, {sets} AS "{name}" FROM input'  # noqa: S608
    add_job("a", input={"dataset": "src"}, output=OUTPUT, transform={"sql": sql})
    assert load("a")["new"] == 1
    assert rows("SELECT count(*) AS n FROM victim") == [{"n": 1}]


@pytest.mark.parametrize("more", [{}, {"watermark": {"field": "id"}}, {"engine": "duckdb"}])
def test_an_input_read_where_it_lies_writes_nothing(
    add_job: AddJob, load: Load, shop: Engine, more: dict[str, Any]
) -> None:
    if "engine" in more:
        pytest.importorskip("duckdb")
        more = {"transform": {"sql": "SELECT * FROM input", "engine": "duckdb"}}
    with shop.begin() as conn:
        conn.exec_driver_sql("CREATE SEQUENCE counter")
    query = "SELECT n AS id, nextval('counter') AS x FROM generate_series(1, 3) n WHERE nextval('counter') > 0"
    add_job("a", input={"connection": "mart", "query": query}, output=OUTPUT | {"connection": "mart"}, **more)
    with pytest.raises(JobError, match=r"The input: .* cannot execute nextval\(\) in a read-only transaction"):
        load("a")
