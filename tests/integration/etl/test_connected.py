"""Loads from and into another database, by a named connection; and the watermark, wherever the rows are."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

from beatline.connections import ConnectionFaultError
from beatline_tasks.etl import actions
from beatline_tasks.etl.errors import JobError
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]
Put = Callable[[str], None]

ORDERS = """
    CREATE TYPE state AS ENUM ('paid', 'open');
    CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz, amount numeric(10,2), state state, tags text[], doc jsonb);
    INSERT INTO orders SELECT n, timestamptz '2026-01-01 00:00Z' + n * interval '1 hour', n * 1.5,
        CASE n % 2 WHEN 0 THEN 'paid'::state ELSE 'open' END, ARRAY['a', 'b' || n], jsonb_build_object('n', n)
        FROM generate_series(1, 100) n;
"""


@pytest.fixture
def put(shop: Engine) -> Put:
    def execute(statement: str) -> None:
        with shop.begin() as conn:
            conn.execution_options(no_parameters=True).exec_driver_sql(statement)

    return execute


def in_shop(shop: Engine, statement: str) -> list[dict[str, Any]]:
    with shop.connect() as conn:
        return [dict(row) for row in conn.execute(text(statement)).mappings()]


def test_rows_come_over_with_their_types(put: Put, add_job: AddJob, load: Load, rows: Rows) -> None:
    put(ORDERS)
    put("INSERT INTO orders VALUES (101, NULL, NULL, NULL, ARRAY[E'tab\\tnew\\nline\\\\'], '{\"ü\": \"\\\\n\"}')")
    output = {"table": "orders", "mode": "upsert", "key": ["id"]}
    add_job("orders", input={"connection": "shop", "table": "orders"}, output=output)
    assert load("orders") == {"in": 101, "out": 101, "rejected": 0, "new": 101, "changed": 0}
    assert load("orders")["changed"] == 0
    found = rows("SELECT at::text, amount::text, state, tags, doc FROM orders WHERE id IN (2, 101) ORDER BY id")
    assert found == [
        {"at": "2026-01-01 02:00:00+00", "amount": "3.00", "state": "paid", "tags": ["a", "b2"], "doc": {"n": 2}},
        {"at": None, "amount": None, "state": None, "tags": ["tab\tnew\nline\\"], "doc": {"ü": "\\n"}},
    ]
    types = rows(
        "SELECT string_agg(format_type(atttypid, atttypmod), ', ' ORDER BY attnum) AS t FROM pg_attribute "
        "WHERE attrelid = 'orders'::regclass AND attnum > 0"
    )
    assert types == [{"t": "bigint, timestamp with time zone, numeric(10,2), text, text[], jsonb"}]


@pytest.mark.parametrize("engine", ["postgresql", "duckdb"])
def test_a_query_and_a_transform(put: Put, add_job: AddJob, load: Load, rows: Rows, engine: str) -> None:
    if engine == "duckdb":
        pytest.importorskip("duckdb")
    put(ORDERS)
    sql = (
        'SELECT state, count(*) AS orders, sum(amount) AS total, max("at") AS latest, min(tags) AS tags FROM input '
        "WHERE state LIKE '%p%' GROUP BY state"
    )
    add_job(
        "states",
        input={"connection": "shop", "query": "SELECT * FROM orders WHERE id % 10 <> 0;"},
        transform={"sql": sql, "engine": engine},
        output={"table": "states", "mode": "upsert", "key": ["state"]},
    )
    assert load("states") == {"in": 90, "out": 2, "rejected": 0, "new": 2, "changed": 0}
    assert rows("SELECT state, orders, total::text, latest::text FROM states ORDER BY state") == [
        {"state": "open", "orders": 50, "total": "3750.00", "latest": "2026-01-05 03:00:00+00"},
        {"state": "paid", "orders": 40, "total": "3000.00", "latest": "2026-01-05 02:00:00+00"},
    ]


def test_duckdb_reaches_nothing_but_its_rows(
    put: Put, add_job: AddJob, load: Load, execute: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb")
    put(ORDERS)
    execute(
        "CREATE TABLE feed AS SELECT n AS id, CASE n WHEN 1 THEN NULL WHEN 2 THEN '' WHEN 3 THEN E'\\\\N' END AS t FROM generate_series(1, 3) n"
    )
    output = {"table": "out", "mode": "replace"}

    def transform(name: str, sql: str) -> dict[str, Any]:
        add_job(name, input={"dataset": "feed"}, transform={"sql": sql, "engine": "duckdb"}, output=output)
        return load(name)

    transform("nulls", "SELECT id, t FROM input")
    assert [row["t"] for row in rows("SELECT t FROM out ORDER BY id")] == [None, "", "\\N"]
    with pytest.raises(JobError, match=r"DuckDB refuses it: Permission Error.*file system operations are disabled"):
        transform("files", "SELECT * FROM read_text('/etc/hostname')")
    with pytest.raises(JobError, match=r"DuckDB refuses it: Binder Error: .*nope"):
        transform("typo", "SELECT nope FROM input")
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(JobError, match=r"not installed on this worker: pip install 'beatline\[duckdb\]'"):
        transform("absent", "SELECT 1 AS x")


def test_duckdb_is_bounded_in_time_and_disk(
    add_job: AddJob, load: Load, execute: Run, open_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb")
    execute("CREATE TABLE feed AS SELECT 1 AS id")
    output = {"table": "out", "mode": "replace"}

    def define(name: str, sql: str, limit_s: float) -> Definition:
        transform = {"sql": sql, "engine": "duckdb"}
        return add_job(name, input={"dataset": "feed"}, transform=transform, output=output, statement_timeout_s=limit_s)

    define("long", "SELECT count(*) AS n FROM range(10_000_000_000_000) a, input", 0.5)
    with pytest.raises(JobError, match="The transform: took longer than statement_timeout_s allows"):
        load("long")
    checked = actions.check(open_installation, define("fine", "SELECT id FROM input", 30))
    assert checked.ok, checked.text

    def nearly_full(_path: object) -> SimpleNamespace:
        return SimpleNamespace(free=2**21)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    define("big", "SELECT md5(CAST(range AS text)) AS t FROM range(5_000_000)", 30)
    with pytest.raises(JobError, match="The transform: DuckDB refuses it: Out of Memory Error"):
        load("big")


def test_into_another_database(put: Put, add_job: AddJob, load: Load, execute: Run, rows: Rows, shop: Engine) -> None:
    execute(
        "CREATE TABLE feed AS SELECT n::text AS id, n AS v FROM generate_series(1, 5) n; INSERT INTO feed VALUES ('x', 0)"
    )
    put("CREATE SCHEMA mart; CREATE TABLE mart.totals (id int PRIMARY KEY, v int)")
    output = {"connection": "mart", "table": "mart.totals", "mode": "append", "key": ["id"]}
    add_job("totals", input={"dataset": "feed"}, output=output)
    first = load("totals", "run-a")
    assert (first["new"], first["rejected"]) == (5, 1)
    assert load("totals", "run-a") == first | {"already": True}
    assert load("totals", "run-b")["new"] == 0
    assert in_shop(shop, "SELECT count(*) AS n FROM mart.totals") == [{"n": 5}]
    assert in_shop(shop, "SELECT run_id FROM mart.beatline_loads ORDER BY number") == [
        {"run_id": "run-a"}, {"run_id": "run-b"},
    ]  # fmt: skip
    assert rows("SELECT run_id, row FROM beatline.etl_rejected ORDER BY id") == [
        {"run_id": "run-a", "row": {"v": 0, "id": "x"}}, {"run_id": "run-b", "row": {"v": 0, "id": "x"}},
    ]  # fmt: skip


def test_within_another_database_no_row_leaves_it(put: Put, add_job: AddJob, load: Load, shop: Engine) -> None:
    put(ORDERS)
    output = {"connection": "mart", "table": "copy", "mode": "upsert", "key": ["id"]}
    add_job("copy", input={"connection": "mart", "table": "orders"}, output=output)
    assert load("copy")["new"] == 100
    assert in_shop(shop, "SELECT pg_typeof(state)::text AS t FROM copy LIMIT 1") == [{"t": "state"}]


def test_what_is_wrong_with_a_connection_is_said(put: Put, add_job: AddJob, load: Load) -> None:
    put(ORDERS)
    out = {"table": "t", "mode": "append"}
    add_job("closed", input={"connection": "mart", "table": "orders"}, output=out | {"connection": "shop"})
    with pytest.raises(ConnectionFaultError, match="Connection 'shop' is read only: set its field read_only to false"):
        load("closed")
    add_job("lost", input={"connection": "shop", "table": "public.order"}, output=out)
    with pytest.raises(
        JobError, match=r"no table order in the schema public of connection 'shop'. Did you mean orders"
    ):
        load("lost")
    add_job("typo", input={"connection": "shop", "query": "SELECT nix FROM orders"}, output=out)
    with pytest.raises(JobError, match=r"The input: connection 'shop' refuses it: column \"nix\" does not exist"):
        load("typo")


@pytest.mark.parametrize("place", ["own", "streamed"])
def test_a_watermark_reads_what_is_new_and_late(
    put: Put,
    add_job: AddJob,
    load: Load,
    execute: Run,
    rows: Rows,
    open_installation: Installation,
    place: str,
) -> None:
    change = execute if place == "own" else put
    change(
        "CREATE TABLE events (id bigint, at timestamptz); INSERT INTO events SELECT n, timestamptz '2026-01-01Z' + n * interval '1 minute' FROM generate_series(1, 60) n"
    )
    given = {"dataset": "events"} if place == "own" else {"connection": "shop", "table": "events"}
    output = {"table": "seen", "mode": "append", "key": ["id"]}
    job = add_job("seen", input=given, output=output, watermark={"field": "at", "overlap_s": 300})
    assert load("seen")["in"] == 60
    assert load("seen")["in"] == 6
    change(
        "INSERT INTO events VALUES (61, '2026-01-01 01:01Z'), (62, '2026-01-01 00:57Z'), (63, '2026-01-01 00:10Z'), (64, NULL)"
    )
    assert (load("seen")["in"], rows("SELECT count(*) AS n FROM seen")) == (9, [{"n": 63}])
    assert rows("SELECT watermark FROM beatline.etl_loads ORDER BY number DESC LIMIT 1") == [
        {"watermark": {"field": "at", "type": "timestamp with time zone", "value": "2026-01-01 01:01:00+00"}}
    ]
    assert load("seen")["in"] < 64
    assert actions.rewind(open_installation, job).ok
    assert (load("seen")["in"], load("seen")["in"]) == (64, 8)
    execute("DROP TABLE seen")
    assert load("seen")["new"] == 64


@pytest.mark.parametrize("place", ["own", "streamed"])
@pytest.mark.parametrize(
    ("kind", "endless", "values"),
    [
        ("timestamptz", "infinity", ("2026-01-01Z", "2026-01-02Z", "2026-01-03Z")),
        ("date", "infinity", ("2026-01-01", "2026-01-02", "2026-01-03")),
        ("float8", "NaN", ("1", "2", "3.5")),
        ("numeric", "NaN", ("1", "2", "3.5")),
    ],
)
def test_a_value_without_an_end_does_not_end_the_reading(
    put: Put, add_job: AddJob, load: Load, execute: Run, rows: Rows, place: str,
    kind: str, endless: str, values: tuple[str, str, str],
) -> None:  # fmt: skip
    change = execute if place == "own" else put
    first, second, third = values
    change(f"CREATE TABLE events (id int, at {kind}); INSERT INTO events VALUES (1, '{first}'), (2, '{endless}')")  # noqa: S608
    given = {"dataset": "events"} if place == "own" else {"connection": "shop", "table": "events"}
    output = {"table": "seen", "mode": "upsert", "key": ["id"]}
    add_job("seen", input=given, output=output, watermark={"field": "at"})
    assert load("seen")["in"] == 2
    change(f"INSERT INTO events VALUES (3, '{second}'), (4, '{third}')")  # noqa: S608
    result = load("seen")
    assert result["new"] == 2
    assert "warnings" not in result
    assert [row["id"] for row in rows("SELECT id FROM seen ORDER BY id")] == [1, 2, 3, 4]
    assert load("seen")["in"] == 2


@pytest.mark.parametrize("place", ["own", "streamed"])
def test_a_watermark_in_the_future_is_told(put: Put, add_job: AddJob, load: Load, execute: Run, place: str) -> None:
    change = execute if place == "own" else put
    change("CREATE TABLE events AS SELECT 1 AS id, now() + interval '20 hours' AS at")
    given = {"dataset": "events"} if place == "own" else {"connection": "shop", "table": "events"}
    output = {"table": "seen", "mode": "upsert", "key": ["id"]}
    add_job("seen", input=given, output=output, watermark={"field": "at"})
    assert "warnings" not in load("seen")
    change("INSERT INTO events VALUES (2, '3026-01-01Z')")
    [told] = load("seen")["warnings"]
    assert told.startswith("The watermark at is at 3026-01-01 00:00:00+00, more than a day ahead: rows before it")


def test_two_first_loads_make_one_journal(put: Put, add_job: AddJob, load: Load, shop: Engine) -> None:
    put("CREATE TABLE slow AS SELECT 1 AS id; CREATE TABLE quick AS SELECT 1 AS id")
    for name in ("slow", "quick"):
        output = {"connection": "mart", "table": f"{name}_copy", "mode": "append"}
        add_job(name, input={"connection": "mart", "table": name}, output=output)
    failed: list[BaseException] = []

    def run(name: str) -> None:
        try:
            load(name)
        except BaseException as exc:  # noqa: BLE001  # it is looked at below
            failed.append(exc)

    def waiting(number: int) -> Callable[[], bool]:
        ask = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'beatline/mart' AND wait_event_type = 'Lock' AND datname = current_database()"
        return lambda: in_shop(shop, ask) == [{"n": number}]

    threads = [threading.Thread(target=run, args=(name,)) for name in ("slow", "quick")]
    with shop.begin() as conn:
        conn.exec_driver_sql("LOCK TABLE slow IN ACCESS EXCLUSIVE MODE")
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_until(waiting(number), what="the load waits")
    for thread in threads:
        thread.join()
    assert failed == []
    assert in_shop(shop, "SELECT count(*) AS n FROM beatline_loads") == [{"n": 2}]


def test_watermarks_of_other_types(add_job: AddJob, load: Load, execute: Run) -> None:
    execute(
        "CREATE TABLE events AS SELECT n AS id, date '2026-01-01' + n AS day, 'k' || lpad(n::text, 3, '0') AS key, n / 2.0::float8 AS f, true AS ok FROM generate_series(1, 10) n"
    )
    for field, overlap, second in (
        ("id", {"overlap": 2.5}, 4),
        ("day", {"overlap_s": 90_000}, 3),
        ("key", {}, 1),
        ("f", {"overlap": 1}, 3),
    ):
        output = {"table": f"by_{field}", "mode": "upsert", "key": ["id"]}
        add_job(field, input={"dataset": "events"}, output=output, watermark={"field": field} | overlap)
        assert load(field)["in"] == 10
        assert load(field)["in"] == second, field
    for field, overlap, said in (
        ("ok", {}, "is boolean: it must be"),
        ("nix", {}, "is no field of the input"),
        ("id", {"overlap_s": 5}, "overlap_s is for dates"),
        ("day", {"overlap": 5}, "overlap_s\\?"),
    ):
        output = {"table": "no", "mode": "upsert", "key": ["id"]}
        name = f"{field}-wrong"
        add_job(name, input={"dataset": "events"}, output=output, watermark={"field": field} | overlap)
        with pytest.raises(JobError, match=said):
            load(name)


def test_whichever_side_fails_while_rows_come_over_is_named(
    put: Put, add_job: AddJob, load: Load, execute: Run
) -> None:
    put("CREATE TABLE lines AS SELECT n AS id, repeat('x', 100) AS t FROM generate_series(1, 20000) n")
    output = {"table": "out", "mode": "append"}
    late = "SELECT id, t, 1 / (15000 - id) AS x FROM lines"
    add_job("late", input={"connection": "shop", "query": late}, output=output)
    with pytest.raises(JobError, match=r"The input: connection 'shop' refuses it: division by zero"):
        load("late")
    put("CREATE TABLE twice (a int, b int); INSERT INTO twice VALUES (1, 2)")
    add_job("fine", input={"connection": "shop", "table": "twice"}, output=output)
    assert load("fine")["new"] == 1


def test_a_time_limit_ends_both_sides(put: Put, open_installation: Installation) -> None:
    from beatline_tasks.etl.ends import connected_session, own_session
    from beatline_tasks.etl.job import Job
    from beatline_tasks.etl.piping import stream

    class TimeIsUpError(Exception):
        """As Celery raises it: by a signal, between two instructions."""

    def limit(_number: int, _frame: object) -> None:
        raise TimeIsUpError

    put("SELECT 1")
    job = Job.model_validate({"archive": {"dataset": "d", "time_column": "t"}})
    query = "SELECT repeat('x', 1000) AS id FROM generate_series(1, 1000000000)"
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, limit)
    try:
        with (
            own_session(open_installation, job, keep=False) as session,
            connected_session(open_installation, job, "shop", read_only=True) as source,
        ):
            session.run("CREATE TEMPORARY TABLE short (id text)")
            timer.start()
            with pytest.raises(JobError, match=r"The rows: .*TimeIsUpError"):
                stream(source, query, session, "short", what="The rows")
            session.conn.rollback()
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)
    assert "etl-sender" not in {thread.name for thread in threading.enumerate()}
