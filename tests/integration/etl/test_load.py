"""Loads inside the installation's own database: modes, counts, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from beatline.definitions.lock import definition_lock
from beatline.errors import DefinitionError, TransientError
from beatline.task.context import RunContext
from beatline_tasks.etl.errors import JobError
from beatline_tasks.etl.running import run_load

if TYPE_CHECKING:
    from beatline.definitions import Definition

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]

MONTHLY = (
    "SELECT date_trunc('month', day)::date AS month, sum(amount) AS total, count(*) AS orders FROM input GROUP BY 1"
)


@pytest.fixture
def orders(execute: Run) -> None:
    execute("CREATE TABLE orders (id bigint PRIMARY KEY, day date, amount numeric(10,2), note text)")
    execute("INSERT INTO orders SELECT n, date '2026-01-01' + n, n * 1.5, 'n%' || n FROM generate_series(0, 89) n")


@pytest.mark.usefixtures("orders")
def test_an_upsert_makes_the_table_and_a_second_run_changes_nothing(add_job: AddJob, load: Load, rows: Rows) -> None:
    add_job(
        "monthly",
        input={"dataset": "orders"},
        transform={"sql": MONTHLY},
        output={"table": "monthly", "mode": "upsert", "key": ["month"], "columns": {"total": "decimal"}},
    )
    assert load("monthly") == {"in": 90, "out": 3, "rejected": 0, "new": 3, "changed": 0}
    assert load("monthly") == {"in": 90, "out": 3, "rejected": 0, "new": 0, "changed": 0}
    found = rows("SELECT month::text, total::text, orders FROM monthly ORDER BY month")
    assert found[0] == {"month": "2026-01-01", "total": "697.50", "orders": 31}


@pytest.mark.usefixtures("orders")
def test_an_upsert_changes_what_changed_and_keeps_what_is_gone(
    add_job: AddJob, load: Load, rows: Rows, execute: Run
) -> None:
    add_job("copy", input={"dataset": "orders"}, output={"table": "copy", "mode": "upsert", "key": ["id"]})
    load("copy")
    execute("UPDATE orders SET note = 'other' WHERE id < 5; DELETE FROM orders WHERE id = 89")
    assert load("copy") == {"in": 89, "out": 89, "rejected": 0, "new": 0, "changed": 5}
    assert rows("SELECT count(*) AS n, count(*) FILTER (WHERE note = 'other') AS other FROM copy") == [
        {"n": 90, "other": 5}
    ]


def test_of_rows_with_one_key_the_last_counts(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE events (at int, id int, what text)")
    execute("INSERT INTO events VALUES (1, 7, 'first'), (3, 7, 'last'), (2, 7, 'middle'), (1, 8, 'only')")
    add_job(
        "latest",
        input={"dataset": "events"},
        transform={"sql": "SELECT id, what FROM input ORDER BY at"},
        output={"table": "latest", "mode": "upsert", "key": ["id"]},
    )
    assert load("latest")["new"] == 2
    assert rows("SELECT what FROM latest ORDER BY id") == [{"what": "last"}, {"what": "only"}]


@pytest.mark.usefixtures("orders")
def test_an_append_adds_the_rows_of_a_run_once(add_job: AddJob, load: Load, rows: Rows) -> None:
    add_job(
        "snapshots",
        input={"dataset": "orders"},
        transform={"sql": "SELECT count(*) AS orders, sum(amount) AS total FROM input"},
        output={"table": "snapshots", "mode": "append"},
    )
    first = load("snapshots", "run-a")
    assert load("snapshots", "run-b")["new"] == 1
    assert load("snapshots", "run-a") == first | {"already": True}
    assert rows("SELECT count(*) AS n FROM snapshots") == [{"n": 2}]


@pytest.mark.usefixtures("orders")
def test_an_append_with_a_key_leaves_out_what_stands(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    add_job("log", input={"dataset": "orders"}, output={"table": "log", "mode": "append", "key": ["id"]})
    assert load("log")["new"] == 90
    execute("INSERT INTO orders VALUES (90, '2026-05-01', 1, 'new'); UPDATE orders SET note = 'x' WHERE id = 1")
    assert load("log")["new"] == 1
    assert rows("SELECT note FROM log WHERE id IN (1, 90) ORDER BY id") == [{"note": "n%1"}, {"note": "new"}]


@pytest.mark.usefixtures("orders")
def test_what_a_transform_may_not_do(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    output = {"table": "out", "mode": "append"}
    execute(
        "CREATE FUNCTION wipe() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM beatline_data.orders; RETURN 1; END'"
    )
    add_job("calls", input={"dataset": "orders"}, transform={"sql": "SELECT wipe() AS x"}, output=output)
    with pytest.raises(JobError, match="cannot execute DELETE in a read-only transaction"):
        load("calls")
    hidden = "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone"
    add_job("hides", input={"dataset": "orders"}, transform={"sql": hidden}, output=output)
    with pytest.raises(JobError, match="data-modifying statement must be at the top level"):
        load("hides")
    unlocked = "SELECT set_config('transaction_read_only', 'off', true), wipe() AS x FROM input"
    add_job("unlocks", input={"dataset": "orders"}, transform={"sql": unlocked}, output=output)
    with pytest.raises(JobError, match="cannot set transaction read-write mode"):
        load("unlocks")
    with pytest.raises(DefinitionError, match=r"transform\.sql: closes a parenthesis that it did not open"):
        add_job("leaves", input={"dataset": "orders"}, output=output,
                transform={"sql": "SELECT 1) AS x; DROP TABLE orders; SELECT * FROM (SELECT 1"})  # fmt: skip
    assert rows("SELECT count(*) AS n FROM orders") == [{"n": 90}]


@pytest.mark.usefixtures("orders")
def test_errors_of_the_users_sql_are_in_words(add_job: AddJob, load: Load) -> None:
    output = {"table": "out", "mode": "append"}
    add_job("typo", input={"dataset": "orders"}, transform={"sql": "SELECT amout FROM input"}, output=output)
    with pytest.raises(JobError, match=r'The transform: .*column "amout" does not exist \(.*amount'):
        load("typo")
    add_job(
        "zero", input={"dataset": "orders"}, transform={"sql": "SELECT 1 / (id - id) AS x FROM input"}, output=output
    )
    with pytest.raises(JobError, match=r"The transform: .*division by zero"):
        load("zero")
    add_job("lost", input={"dataset": "order"}, output=output)
    with pytest.raises(JobError, match=r"no dataset order in the schema beatline_data .* Did you mean orders"):
        load("lost")
    twice = {"sql": "SELECT id, id FROM input"}
    add_job("twice", input={"dataset": "orders"}, transform=twice, output=output)
    with pytest.raises(JobError, match="gives the field id twice"):
        load("twice")


def test_a_dataset_of_a_source_is_not_written_to(add_job: AddJob, load: Load, open_installation: Any) -> None:
    from beatline.datasets.table import open_dataset

    with open_installation.engine.begin() as conn:
        open_dataset(conn, "days", ["day"], {"day": "integer"})
    add_job("bad", input={"dataset": "days"}, output={"table": "days", "mode": "append"})
    with pytest.raises(JobError, match="days is filled by a source"):
        load("bad")
    fine = {"table": "weeks", "mode": "upsert", "key": ["week"]}
    sql = "SELECT day / 7 AS week, count(*) AS days FROM input GROUP BY 1"
    add_job("good", input={"dataset": "days"}, transform={"sql": sql}, output=fine)
    assert load("good")["in"] == 0


@pytest.mark.usefixtures("orders")
def test_what_a_select_sets_ends_with_its_run(add_job: AddJob, load: Load, rows: Rows) -> None:
    sql = "SELECT set_config('timezone', 'Asia/Shanghai', false) AS zone, count(*) AS n FROM input"
    add_job("sets", input={"dataset": "orders"}, transform={"sql": sql}, output={"table": "out", "mode": "append"})
    load("sets")
    assert {row["TimeZone"] for _ in range(5) for row in rows("SHOW timezone")} == {"UTC"}


def test_a_constraint_that_is_looked_at_late_is_told_in_words(add_job: AddJob, load: Load, execute: Run) -> None:
    execute("CREATE TABLE feed (id int); INSERT INTO feed VALUES (1), (2); CREATE TABLE target (id int PRIMARY KEY)")
    execute("CREATE TABLE child (id int REFERENCES target DEFERRABLE INITIALLY DEFERRED)")
    add_job("target", input={"dataset": "feed"}, output={"table": "target", "mode": "replace"})
    load("target")
    execute("INSERT INTO child VALUES (2); DELETE FROM feed WHERE id = 2")
    with pytest.raises(JobError, match=r"A constraint: .*violates foreign key constraint"):
        load("target")


@pytest.mark.usefixtures("orders")
def test_a_second_attempt_waits_for_the_first(add_job: AddJob, rows: Rows, open_installation: Any) -> None:
    output = {"table": "copy", "mode": "upsert", "key": ["id"]}
    job = add_job("copy", input={"dataset": "orders"}, output=output)

    def attempt(number: int) -> Any:
        return run_load(open_installation, "copy", RunContext("run-1", number, 0, "etl.run_job", "etl", None, None))

    other = RunContext("run-2", 2, 0, "etl.run_job", "etl", None, None)
    with definition_lock(open_installation.engine, job, replace(other, run_id="run-1")):
        assert run_load(open_installation, "copy", other) == "busy"
        with pytest.raises(TransientError, match="Another attempt still holds Job 'copy'") as held:
            attempt(2)
    assert held.value.retry_after_s == 30
    assert attempt(3)["new"] == 90
    assert rows("SELECT count(*) AS n FROM copy") == [{"n": 90}]
