"""`beatline jobs check|preview|rejected|archives`: what they say, and that they keep nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

from beatline.definitions import Finding, store
from beatline_tasks.etl import actions, listing
from beatline_tasks.etl.retention import removed

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]
Ask = Callable[..., Finding]

OUTPUT = {"table": "monthly", "mode": "upsert", "key": ["month"]}
SUMS = {"sql": "SELECT date_trunc('month', day)::date AS month, sum(amount) AS total FROM input GROUP BY 1"}


@pytest.fixture
def check(add_job: AddJob, open_installation: Installation, execute: Run) -> Ask:
    """Defines a job over the dataset `orders` and checks it."""
    execute(
        "CREATE TABLE orders AS SELECT n AS id, date '2026-01-01' + n AS day, n * 1.5 AS amount, 'x' || n AS note FROM generate_series(0, 89) n; ANALYZE orders"
    )

    def ask(**spec: Any) -> Finding:
        given: dict[str, Any] = {"input": {"dataset": "orders"}, "transform": SUMS, "output": OUTPUT}
        wanted = {name: part for name, part in (given | spec).items() if part is not None}
        return actions.check(open_installation, add_job("job", **wanted))

    return ask


def test_a_job_that_works(check: Ask, rows: Rows) -> None:
    found = check(checks=[{"type": "sql", "name": "c", "sql": "SELECT * FROM target JOIN output USING (month)"}])
    assert (found.ok, found.text) == (True, "It works: input, transform, target and contract fit.")
    assert found.details["input_rows_estimated"] == 90
    assert found.details["fields"] == {"month": "date", "total": "numeric"}
    assert found.details["target"] == "beatline_data.monthly, which would be made"
    assert "Seq Scan on orders" in "".join(found.details["plan"])
    assert rows("SELECT to_regclass('monthly') AS made") == [{"made": None}]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"input": {"dataset": "order"}}, "There is no dataset order in the schema beatline_data"),
        ({"transform": {"sql": "SELECT nix FROM input"}}, 'The transform: .* column "nix" does not exist'),
        ({"transform": {"sql": "SELECT day AS month, nix() FROM input"}}, "function nix\\(\\) does not exist"),
        ({"transform": {"sql": "SELECT day FROM input"}}, "No field month of the key comes; the fields are: day"),
        ({"output": OUTPUT | {"table": "Bad Name"}}, "cannot be a table's"),
        ({"input": {"connection": "nobody", "table": "x"}}, "There is no connection 'nobody'"),
        ({"watermark": {"field": "note", "overlap": 5}}, r"watermark\.overlap is for numbers; 'note' is text"),
        ({"checks": [{"type": "not_null", "columns": ["nix"]}]}, r"checks\.0: not_null names nix, which the load"),
        ({"checks": [{"type": "sql", "name": "c", "sql": "SELECT nix FROM output"}]}, "The check 'c': .* \"nix\""),
        ({"transform": {"sql": "SELECT nix FROM input", "engine": "duckdb"}}, "DuckDB refuses it: .*nix"),
    ],
)
def test_what_is_wrong_is_said(check: Ask, spec: dict[str, Any], said: str) -> None:
    import re

    if "duckdb" in said.lower():
        pytest.importorskip("duckdb")
    found = check(**spec)
    assert not found.ok
    assert re.search(said, found.text), found.text


def test_the_contract_is_compared_with_the_table(check: Ask, execute: Run) -> None:
    execute("CREATE TABLE monthly (month date PRIMARY KEY, total int, seen timestamptz NOT NULL)")
    found = check(output=OUTPUT | {"contract": "freeze"})
    assert found.text == (
        "total comes as numeric and the table has integer: cast it in transform.sql, or set output.contract to "
        "discard_row. seen does not come, and the table's column takes no null."
    )


def test_what_a_load_would_change_is_said(check: Ask, execute: Run, rows: Rows) -> None:
    execute("CREATE TABLE monthly (month date PRIMARY KEY, total int)")
    sql = "SELECT day AS month, sum(amount) AS total, max(note) AS note FROM input GROUP BY 1"
    found = check(transform={"sql": sql})
    assert found.ok
    assert found.text.endswith(
        "A load widens the column total from integer to numeric and adds the column note (text)."
    )
    assert rows("SELECT count(*) AS n FROM pg_attribute WHERE attrelid = 'monthly'::regclass AND attnum > 0") == [
        {"n": 2}
    ]


def test_a_table_without_its_key_or_rights_is_found(check: Ask, execute: Run) -> None:
    execute("CREATE TABLE monthly (month date, total numeric)")
    found = check()
    assert not found.ok
    assert 'has no unique index on its key: CREATE UNIQUE INDEX ON "beatline_data"."monthly" ("month")' in found.text


def test_a_check_over_a_connection_explains_there(
    check: Ask, shop: Engine, open_installation: Installation, add_job: AddJob
) -> None:
    with shop.begin() as conn:
        conn.execute(text("CREATE TABLE lines AS SELECT now() AS month, 5 AS total FROM generate_series(1, 1000)"))
        conn.execute(text("ANALYZE lines"))
    found = check(input={"connection": "shop", "query": "SELECT * FROM lines"}, transform=None)
    assert (found.ok, found.details["input_rows_estimated"]) == (True, 1000)
    output = {"connection": "shop", "table": "other", "mode": "append"}
    wrong = actions.check(open_installation, add_job("wrong", input={"dataset": "orders"}, output=output))
    assert (wrong.ok, "Connection 'shop' is read only" in wrong.text) == (False, True)


def test_a_parked_job_that_works_runs_again(check: Ask, open_installation: Installation) -> None:
    assert check().ok
    with open_installation.engine.begin() as conn:
        job = store.get(conn, "job", "job")
        store.park(conn, job, "why", who="test")
        parked = store.get(conn, "job", "job")
    assert actions.check(open_installation, parked).text.endswith("It was parked, and runs again.")
    with open_installation.engine.connect() as conn:
        assert store.get(conn, "job", "job").parked is None


def test_a_preview_shows_rows_and_keeps_nothing(
    add_job: AddJob, open_installation: Installation, execute: Run, rows: Rows
) -> None:
    execute(
        "CREATE TABLE feed AS SELECT n::text AS id, n * 2 AS v FROM generate_series(1, 30) n; INSERT INTO feed VALUES ('x', 1)"
    )
    output = {"table": "out", "mode": "upsert", "key": ["id"], "columns": {"id": "integer"}}
    job = add_job("job", input={"dataset": "feed"}, output=output)
    found = actions.preview(open_installation, job)
    assert (found.ok, found.text) == (True, "31 rows came and give 31. 1 would be rejected: id: 'x' is no bigint.")
    assert (len(found.rows), dict(found.rows[0])) == (10, {"id": 1, "v": 2})
    assert rows("SELECT to_regclass('out') AS made") == [{"made": None}]
    assert rows("SELECT count(*) AS n FROM beatline.etl_rejected") == [{"n": 0}]


def test_a_preview_looks_at_the_first_rows_of_a_large_input_alone(
    add_job: AddJob, open_installation: Installation, execute: Run
) -> None:
    execute("CREATE TABLE feed AS SELECT n AS id FROM generate_series(1, 10001) n")
    sql = {"sql": "SELECT count(*) AS n FROM input"}
    job = add_job("job", input={"dataset": "feed"}, transform=sql, output={"table": "out", "mode": "append"})
    found = actions.preview(open_installation, job)
    assert found.text == "Of the first 10,000 rows of the input alone: they give 1."
    assert [dict(row) for row in found.rows] == [{"n": 10_000}]


def test_an_archive_is_checked(add_job: AddJob, open_installation: Installation, execute: Run) -> None:
    execute("CREATE TABLE lines (at timestamptz, id int)")
    job = add_job("old", archive={"dataset": "lines", "time_column": "at"})
    assert (
        actions.check(open_installation, job).text == "It works: no row of beatline_data.lines is 1 days old or older."
    )
    execute("INSERT INTO lines VALUES ('2026-01-05 12:00Z', 1)")
    assert "2026-01-05 is the first day" in actions.check(open_installation, job).text
    wrong = add_job("wrong", archive={"dataset": "lines", "time_column": "id"})
    assert not actions.check(open_installation, wrong).ok
    assert not actions.preview(open_installation, job).ok


def test_rejected_rows_are_listed_and_go_with_the_job(
    add_job: AddJob, load: Load, open_installation: Installation, execute: Run, rows: Rows
) -> None:
    execute(
        "CREATE TABLE feed AS SELECT n::text AS id FROM generate_series(1, 3) n; INSERT INTO feed VALUES ('x'), ('y')"
    )
    output = {"table": "out", "mode": "upsert", "key": ["id"], "columns": {"id": "integer"}}
    job = add_job("job", input={"dataset": "feed"}, output=output)
    for _ in range(2):
        load("job")
    found = listing.rejected(open_installation, job, limit=3)
    assert (found.text, len(found.rows)) == ("4 rejected rows are kept.", 3)
    assert listing.rejected(open_installation, job, run="run-1").text == "2 rejected rows are kept."
    assert found.rows[0]["row"] == {"id": "y"}
    assert listing.archives(open_installation, job).text == "0 files with 0 rows."
    with open_installation.engine.begin() as conn:
        removed(conn, open_installation, job)
    assert rows(
        "SELECT (SELECT count(*) FROM beatline.etl_rejected) + (SELECT count(*) FROM beatline.etl_loads) AS n"
    ) == [{"n": 0}]
