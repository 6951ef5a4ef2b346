"""Rows that do not fit: what is rejected and why, what is kept of it, and that nothing is narrowed silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from beatline_tasks.etl import staging
from beatline_tasks.etl.errors import BlockedError, JobError

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]

RAW = """
    CREATE TABLE raw (id text, amount text, at text, ok text);
    INSERT INTO raw VALUES
        ('1', '1.50', '2026-01-01T08:00:00+08:00', 'true'),
        ('2', 'much', '2026-01-02', 'true'),
        ('3', '2', '2026-02-30', 'true'),
        (NULL, '3', '2026-01-03', 'true'),
        ('x', '4', '2026-01-04', 'true'),
        ('6', '', ' ', 'maybe'),
        ('7', '', ' ', '')
"""
TYPED = {
    "table": "typed",
    "mode": "upsert",
    "key": ["id"],
    "columns": {"id": "integer", "amount": "decimal", "at": "timestamp", "ok": "boolean"},
}


@pytest.mark.parametrize("newest", [True, False])
def test_text_is_read_as_the_declared_types_or_the_row_is_rejected(
    add_job: AddJob, load: Load, rows: Rows, execute: Run, newest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not newest:  # PostgreSQL 14 and 15 cannot be asked whether a text reads as a type
        monkeypatch.setattr(staging, "_VALID_SINCE", 10**9)
    execute(RAW)
    add_job("typed", input={"dataset": "raw"}, output=TYPED)
    result = load("typed")
    assert (result["in"], result["out"], result["rejected"]) == (7, 2, 5)
    assert result["reasons"] == [
        "amount: 'much' is no numeric",
        "at: '2026-02-30' is no timestamp with time zone",
        "the key field 'id' is missing",
    ]
    assert rows("SELECT id, amount::text, at::text, ok FROM typed ORDER BY id") == [
        {"id": 1, "amount": "1.50", "at": "2026-01-01 00:00:00+00", "ok": True},
        {"id": 7, "amount": None, "at": None, "ok": None},
    ]
    kept = rows("SELECT run_id, reason, row FROM beatline.etl_rejected ORDER BY id")
    assert len(kept) == 5
    assert kept[0] == {
        "run_id": "run-1",
        "reason": "amount: 'much' is no numeric",
        "row": {"id": "2", "amount": "much", "at": "2026-01-02", "ok": "true"},
    }
    assert kept[4]["reason"] == "ok: 'maybe' is no boolean"


def test_no_value_is_narrowed_silently(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE narrow (id int PRIMARY KEY, n int, price numeric(6,2), day date, short varchar(3), f real)")
    execute(
        """
        CREATE TABLE wide AS SELECT * FROM (VALUES
            (1, 5::bigint, 1.25::numeric, timestamptz '2026-01-01 00:00Z', 'abc', 0.5::float8),
            (2, 3000000000, 1, '2026-01-01', 'a', 0),
            (3, 1, 1.255, '2026-01-01', 'a', 0),
            (4, 1, 12345.5, '2026-01-01', 'a', 0),
            (5, 1, 1, '2026-01-01 10:00Z', 'a', 0),
            (6, 1, 1, '2026-01-01', 'abcd', 0),
            (7, 1, 1, '2026-01-01', 'a', 0.1)
        ) AS v (id, n, price, day, short, f)
        """
    )
    output = {"table": "narrow", "mode": "upsert", "key": ["id"], "contract": "discard_row"}
    add_job("narrow", input={"dataset": "wide"}, output=output)
    assert load("narrow")["rejected"] == 6
    assert rows("SELECT id, n, price::text, day::text, short, f FROM narrow") == [
        {"id": 1, "n": 5, "price": "1.25", "day": "2026-01-01", "short": "abc", "f": 0.5}
    ]
    reasons = [row["reason"] for row in rows("SELECT reason FROM beatline.etl_rejected ORDER BY id")]
    assert reasons == [
        "n: '3000000000' is no integer",
        "price: '1.255' is no numeric(6,2)",
        "price: '12345.5' is no numeric(6,2)",
        "day: '2026-01-01 10:00:00+00' is no date",
        "short: 'abcd' is no character varying(3)",
        "f: '0.1' is no real",
    ]


def test_numbers_that_are_whole_go_into_integers(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE numbers (id int, f float8, n numeric)")
    execute(
        "INSERT INTO numbers VALUES (1, 2, 3.00), (2, 2.5, 1), (3, 1e19, 1), (4, 1, 0.5), (5, 'NaN', 1), (6, 1, 'NaN'), "
        "(7, 'Infinity', 1), (8, -9223372036854775808, 9223372036854775807)"
    )
    output = {"table": "whole", "mode": "append", "columns": {"f": "integer", "n": "integer"}}
    add_job("whole", input={"dataset": "numbers"}, output=output)
    assert load("whole")["rejected"] == 6
    assert rows("SELECT id, f, n FROM whole ORDER BY id") == [
        {"id": 1, "f": 2, "n": 3},
        {"id": 8, "f": -(2**63), "n": 2**63 - 1},
    ]


def test_evolve_adds_and_widens_and_says_so(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE feed (id int, n int); INSERT INTO feed VALUES (1, 1)")
    add_job("feed", input={"dataset": "feed"}, output={"table": "grown", "mode": "upsert", "key": ["id"]})
    load("feed")
    execute("ALTER TABLE feed ALTER n TYPE numeric, ADD extra jsonb; INSERT INTO feed VALUES (2, 2.5, '{\"a\": 1}')")
    assert load("feed")["table"] == ["widens the column n from integer to numeric", "adds the column extra (jsonb)"]
    assert rows("SELECT id, n::text, extra FROM grown ORDER BY id") == [
        {"id": 1, "n": "1", "extra": None},
        {"id": 2, "n": "2.5", "extra": {"a": 1}},
    ]
    execute("ALTER TABLE feed DROP extra")
    load("feed")
    assert rows("SELECT extra FROM grown WHERE id = 2") == [{"extra": {"a": 1}}]


def test_freeze_loads_nothing_and_discard_row_what_fits(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE feed (id int, n int, extra text); INSERT INTO feed VALUES (1, 1, NULL), (2, 2, 'surprise')")
    execute("CREATE TABLE strict (id int PRIMARY KEY, n int)")
    output = {"table": "strict", "mode": "upsert", "key": ["id"]}
    add_job("frozen", input={"dataset": "feed"}, output=output | {"contract": "freeze"})
    with pytest.raises(JobError, match=r"do not fit beatline_data.strict: extra \(text\) is new"):
        load("frozen")
    assert rows("SELECT * FROM strict") == []
    add_job("picky", input={"dataset": "feed"}, output=output | {"contract": "discard_row"})
    assert load("picky")["reasons"] == ["it has the field 'extra', which the table has not"]
    assert rows("SELECT id FROM strict") == [{"id": 1}]


def test_a_load_without_one_good_row_fails(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE feed (id text); INSERT INTO feed VALUES ('a'), ('b')")
    output = {"table": "ids", "mode": "upsert", "key": ["id"], "columns": {"id": "integer"}}
    add_job("ids", input={"dataset": "feed"}, output=output)
    with pytest.raises(JobError, match=r"No row can be loaded, 2 were rejected: id: 'a' is no bigint"):
        load("ids")
    assert rows("SELECT to_regclass('ids') AS made") == [{"made": None}]
    kept = rows("SELECT run_id, reason, row FROM beatline.etl_rejected ORDER BY id")
    assert kept == [
        {"run_id": "run-1", "reason": f"id: '{one}' is no bigint", "row": {"id": one}} for one in ("a", "b")
    ]


@pytest.mark.parametrize(
    "check",
    [
        {"type": "range", "column": "n", "min": 0, "max": 100},
        {"type": "not_null", "columns": ["n"]},
        {"type": "unique", "columns": ["n"]},
        {"type": "sql", "name": "high", "sql": "SELECT * FROM output WHERE n > 100"},
    ],
)
def test_checks_look_at_no_row_that_was_rejected(
    add_job: AddJob, load: Load, execute: Run, check: dict[str, Any]
) -> None:
    execute("CREATE TABLE feed (id int, n text); INSERT INTO feed VALUES (1, '5'), (2, 'abc'), (3, '7')")
    output = {"table": "sums", "mode": "upsert", "key": ["id"], "columns": {"n": "integer"}}
    add_job("sums", input={"dataset": "feed"}, output=output, checks=[check])
    result = load("sums")
    assert (result["new"], result["rejected"]) == (2, 1)


def test_a_check_that_blocks_leaves_the_rejected_rows_to_look_at(
    add_job: AddJob, load: Load, rows: Rows, execute: Run
) -> None:
    execute("CREATE TABLE feed (id int, n text); INSERT INTO feed VALUES (1, '5'), (2, 'abc')")
    output = {"table": "sums", "mode": "upsert", "key": ["id"], "columns": {"n": "integer"}}
    check = {"type": "range", "column": "n", "max": 4}
    add_job("sums", input={"dataset": "feed"}, output=output, checks=[check])
    for _ in range(2):
        with pytest.raises(BlockedError):
            load("sums", "run-1")
    assert rows("SELECT run_id, reason FROM beatline.etl_rejected") == [
        {"run_id": "run-1", "reason": "n: 'abc' is no bigint"}
    ]
    assert rows("SELECT to_regclass('sums') AS made") == [{"made": None}]


def test_what_is_kept_is_capped(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE feed AS SELECT n AS id, repeat('x', 9000) AS t FROM generate_series(1, 50) n")
    execute("CREATE TABLE short (id int PRIMARY KEY, t varchar(10)); INSERT INTO feed VALUES (51, 'fine')")
    output = {"table": "short", "mode": "upsert", "key": ["id"], "contract": "discard_row"}
    add_job("short", input={"dataset": "feed"}, output=output, rejected_kept=7)
    assert load("short")["rejected"] == 50
    kept = rows("SELECT row FROM beatline.etl_rejected")
    assert len(kept) == 7
    assert len(kept[0]["row"]["beatline_cut"]) == 8000


def test_old_rejected_rows_and_loads_go_and_the_last_load_stays(
    add_job: AddJob, load: Load, rows: Rows, execute: Run, open_installation: Installation
) -> None:
    from beatline_tasks.etl.retention import prune

    execute("CREATE TABLE feed (id text); INSERT INTO feed VALUES ('a'), ('1')")
    output = {"table": "ids", "mode": "upsert", "key": ["id"], "columns": {"id": "integer"}}
    add_job("ids", input={"dataset": "feed"}, output=output)
    for _ in range(3):
        load("ids")
    old = "now() - interval '31 days'"
    execute(f"UPDATE beatline.etl_loads SET loaded_at = {old}")  # noqa: S608
    execute(f"UPDATE beatline.etl_rejected SET at = {old} WHERE run_id = 'run-1'")  # noqa: S608
    assert prune(open_installation) == {"rejected": 1, "loads": 2}
    assert rows("SELECT run_id FROM beatline.etl_loads") == [{"run_id": "run-3"}]
