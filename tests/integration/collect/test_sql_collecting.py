"""Runs of a sql source: a real database, read through a named connection."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.definitions.lock import definition_lock
from beatline.errors import AddressRefusedError, TransientError
from beatline.families import kinds
from beatline.ledger.database import sql
from beatline.task.context import RunContext
from beatline_tasks.collect.collecting import collect
from beatline_tasks.collect.errors import SourceError
from support.connecting import add_connection, own_database
from support.processes import variables_of

if TYPE_CHECKING:
    from beatline.definitions import Definition, Finding
    from beatline.installation import Installation

AddSource = Callable[..., "Definition"]
ORDERS: dict[str, Any] = {
    "type": "sql",
    "connection": "shop",
    "table": "public.orders",
    "key": ["id"],
    "columns": {"id": "integer", "at": "timestamp", "total": "number"},
    "cursor": {"field": "at"},
    "dataset": "orders",
}


def run_sql(installation: Installation, *statements: str) -> None:
    with installation.engine.begin() as conn:
        for statement in statements:
            conn.execute(text(statement.replace(":", r"\:")))


@pytest.fixture
def shop(open_installation: Installation) -> Installation:
    """An installation with a connection `shop` to a database with 25 orders."""
    run_sql(
        open_installation,
        "CREATE TABLE public.orders (id int PRIMARY KEY, at timestamptz NOT NULL, total numeric(12, 2), tags text[], "
        "about jsonb, raw bytea, birth date)",
        "INSERT INTO public.orders SELECT n, timestamptz '2026-01-01 00:00Z' + n * interval '1 hour', n * 1.25, "
        "ARRAY['a', NULL], '{\"n\": 1}', '\\x00ff', 'infinity' FROM generate_series(1, 25) n",
    )
    add_connection(open_installation, "shop", **own_database(open_installation.settings))
    return open_installation


def collected(installation: Installation, name: str = "orders", number: int = 1) -> dict[str, Any]:
    run = RunContext(f"run-{number}", 1, 0, "collect.execute_task", "collect", None, None)
    result = collect(installation, name, run)
    assert isinstance(result, dict)
    return result


def asked(installation: Installation, definition: Definition, action: str = "check") -> Finding:
    finding: Finding = kinds()["source"].load_action(action)(installation, definition)
    return finding


def test_a_table_is_read_and_then_only_what_is_new(shop: Installation, add_source: AddSource) -> None:
    add_source("orders", **ORDERS)
    assert collected(shop) == {"pages": 1, "rows": 25, "new": 25, "changed": 0, "refused": 0}
    run_sql(
        shop,
        "UPDATE public.orders SET total = 99, at = '2026-03-01' WHERE id = 3",
        "INSERT INTO public.orders (id, at, total) VALUES (26, '2026-03-02', 1)",
    )
    again = collected(shop, number=2)
    assert again == {"pages": 1, "rows": 3, "new": 1, "changed": 1, "refused": 0}, "the last row is read again"
    with shop.engine.connect() as conn:
        row = conn.execute(sql(conn, "SELECT total, doc, run_id FROM {data}.orders WHERE id = 7")).one()
        assert conn.execute(sql(conn, "SELECT total FROM {data}.orders WHERE id = 3")).scalar_one() == 99
    assert (row.total, row.run_id) == (8.75, "run-1")
    assert row.doc == {"tags": ["a", None], "about": {"n": 1}, "raw": "\\x00ff", "birth": "infinity"}


@pytest.mark.parametrize("ordered", [True, False])
def test_a_query_gets_the_position_bound(shop: Installation, add_source: AddSource, ordered: bool) -> None:
    query = "SELECT id, at, total::float8 AS total FROM public.orders WHERE at >= :cursor AND id::text LIKE '%'"
    spec = {k: v for k, v in ORDERS.items() if k != "table"}
    cursor = {"field": "at", "tie_break": "id", "ordered": ordered}
    add_source("orders", **(spec | {"query": query + " ORDER BY id DESC;", "cursor": cursor}))
    assert collected(shop)["new"] == 25
    assert collected(shop, number=2) == {"pages": 1, "rows": 1, "new": 0, "changed": 0, "refused": 0, "known": 1}


@pytest.mark.parametrize(
    ("columns", "field"),
    [({"code": "text"}, "code"), ({"day": "date"}, "day"), ({"n": "integer"}, "n"), ({"x": "number"}, "x")],
)
def test_every_type_of_position_moves_on(
    shop: Installation, add_source: AddSource, columns: dict[str, Any], field: str
) -> None:
    query = (
        "SELECT id, chr(64 + id) || 'é' AS code, date '2026-01-01' + id AS day, id::smallint AS n, id / 8.0 AS x "
        "FROM public.orders"
    )
    own = f"SELECT * FROM ({query}) AS q WHERE {field} >= :cursor"  # noqa: S608  # of the test's own
    for name, text_of in (("wrapped", query), ("own", own)):
        spec = ORDERS | {
            "columns": columns,
            "cursor": {"field": field, "ordered": True},
            "dataset": name,
            "table": None,
        }
        add_source(name, **({k: v for k, v in spec.items() if v is not None} | {"query": text_of}))
        assert collected(shop, name)["new"] == 25
        assert collected(shop, name, 2)["rows"] == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"connection": "shops"}, "connection: There is no connection 'shops'. Did you mean shop?"),
        ({"table": "public.order"}, 'table: relation "public.order" does not exist'),
        ({"key": ["number"]}, "table: it has no column 'number'; its columns are: id, at, total"),
        ({"table": None, "query": "SELECT 1 1"}, "query: syntax error"),
        ({"table": None, "query": "SELECT 1 AS id, 2 AS id, now() AS at, 3 AS total"}, "gives a column twice: id"),
        ({"table": None, "query": "SELECT *, pg_sleep(9) FROM public.orders"}, "statement_timeout_s"),
        ({"table": None, "query": "SELECT *, nextval('s') FROM public.orders"}, "tries to change something"),
        ({"table": None, "query": "WITH d AS (DELETE FROM public.orders RETURNING *) TABLE d"}, "query: WITH clause"),
        ({"columns": {"id": "integer", "at": "timestamp", "birth": "date"}}, "No row"),
    ],
)
def test_what_is_wrong_names_the_field(
    shop: Installation, add_source: AddSource, wrong: dict[str, Any], words: str
) -> None:
    run_sql(shop, "CREATE SEQUENCE public.s")
    add_connection(shop, "quick", statement_timeout_s=0.3, **own_database(shop.settings))
    spec = {k: v for k, v in ({**ORDERS, "connection": "quick"} | wrong).items() if v is not None}
    definition = add_source("orders", **spec)
    with pytest.raises(SourceError) as failed:
        collected(shop)
    assert words in str(failed.value)
    finding = asked(shop, definition)
    assert not finding.ok
    assert words.removeprefix("No row") in finding.text


def test_check_and_preview_read_and_store_nothing(shop: Installation, add_source: AddSource) -> None:
    definition = add_source("orders", **ORDERS)
    assert asked(shop, definition).text == "It works: the table public.orders over the connection 'shop' has 25 rows."
    shown = asked(shop, definition, "preview")
    assert shown.ok
    first: Any = next(iter(shown.details.values()))
    assert (first["at"], first["total"], first["birth"]) == ("2026-01-01T01:00:00Z", 1.25, "infinity")
    with shop.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM beatline.datasets")).scalar_one() == 0


def test_private_addresses_are_refused(installation: Installation, add_source: AddSource) -> None:
    add_source("orders", **ORDERS)
    add_connection(installation, "shop", **own_database(installation.settings))
    with pytest.raises(AddressRefusedError):
        collected(installation)


def test_a_second_attempt_waits_for_the_first_and_for_no_other_run(shop: Installation, add_source: AddSource) -> None:
    definition = add_source("orders", **ORDERS)
    first = RunContext("run-1", 1, 0, "collect.execute_task", "collect", None, None)
    other = replace(first, run_id="run-2")
    with definition_lock(shop.engine, definition, first):
        assert collect(shop, "orders", other) == "busy"
        assert collect(shop, "orders", replace(other, attempt=2)) == "busy"
        with pytest.raises(TransientError, match="Another attempt still holds Source 'orders'") as held:
            collect(shop, "orders", replace(first, attempt=2))
        assert held.value.retry_after_s == 30
    assert collect(shop, "orders", replace(first, attempt=3)) != "busy"


def test_a_lost_connection_may_pass_and_the_next_run_goes_on(shop: Installation, add_source: AddSource) -> None:
    run_sql(
        shop,
        "CREATE FUNCTION public.cut(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF n > 20 AND "
        "current_setting('application_name') = 'beatline/shop' AND NOT EXISTS (SELECT 1 FROM public.cuts) THEN "
        "PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN n; END $$",
        "CREATE TABLE public.cuts (n int)",
    )
    spec = {k: v for k, v in ORDERS.items() if k != "table"}
    add_source("orders", **(spec | {"query": "SELECT *, public.cut(id) AS cut FROM public.orders"}))
    with pytest.raises(TransientError, match="connection 'shop' failed while it was read"):
        collected(shop)
    run_sql(shop, "INSERT INTO public.cuts VALUES (1)")
    assert collected(shop, number=2)["new"] == 25


SCRIPT = """
import json, resource, sys
from beatline.installation import Installation
from beatline.task.context import RunContext
from beatline_tasks.collect.collecting import collect, open_source, read_pages
import beatline.app  # what a worker has loaded anyway

ours = Installation.load()
if sys.argv[1] == "read":
    _, source = open_source(ours, "many")
    rows = sum(sum(1 for _ in page.rows) for page in read_pages(ours, source, None, None, {}))
else:
    run = RunContext("r1", 1, 0, "collect.execute_task", "collect", None, None)
    rows = collect(ours, "many", run)["new"]
if sys.platform == "linux":  # ru_maxrss would begin with what the parent had
    peak_mb = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
else:
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"rows": rows, "peak_mb": peak_mb}))
"""


@pytest.mark.proof
@pytest.mark.parametrize(("what", "rows"), [("read", 200_000), ("collect", 30_000)])
def test_many_rows_need_little_memory(shop: Installation, add_source: AddSource, what: str, rows: int) -> None:
    query = (
        "SELECT n AS id, timestamptz '2026-01-01 00:00Z' + n * interval '1 second' AS at, n / 7.0 AS total, "
        "repeat('x', 60) AS note FROM generate_series(1, ROWS) n"
    )
    add_source(
        "many", **({k: v for k, v in ORDERS.items() if k != "table"} | {"query": query.replace("ROWS", str(rows))})
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, what],
        env=variables_of(shop.settings),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rows"] == rows
    assert said["peak_mb"] < 120
