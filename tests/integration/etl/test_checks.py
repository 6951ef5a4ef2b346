"""Checks: what blocks leaves the target as it was and names the rows; what warns is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from beatline_tasks.etl.errors import BlockedError, JobError

if TYPE_CHECKING:
    from beatline.definitions import Definition

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]
Checked = Callable[..., dict[str, Any]]


@pytest.fixture
def checked(add_job: AddJob, load: Load, execute: Run) -> Checked:
    """Loads some orders under checks."""
    execute(
        "CREATE TABLE orders (id int, customer text, amount numeric, at timestamptz);"
        "INSERT INTO orders SELECT n, 'c' || n, n, '2026-01-01Z' FROM generate_series(1, 20) n"
    )

    def run(*checks: dict[str, Any], change: str = "SELECT 1", mode: str = "upsert") -> dict[str, Any]:
        execute(change)
        output = {"table": "checked", "mode": mode, "key": ["id"] if mode == "upsert" else []}
        add_job("checked", input={"dataset": "orders"}, output=output, checks=list(checks))
        return load("checked")

    return run


def blocked(checked: Checked, *checks: dict[str, Any], **more: Any) -> tuple[str, ...]:
    with pytest.raises(BlockedError) as caught:
        checked(*checks, **more)
    assert str(caught.value).startswith("Nothing was loaded, a check blocks it: ")
    return caught.value.found


def test_a_load_that_passes_says_nothing(checked: Checked) -> None:
    result = checked(
        {"type": "not_null", "columns": ["customer", "amount"]},
        {"type": "unique", "columns": ["customer"]},
        {"type": "range", "column": "amount", "min": 0.5, "max": 20},
        {"type": "range", "column": "at", "max": "2026-12-31"},
        {"type": "row_count_change", "max_drop_pct": 1, "max_rise_pct": 1},
        {"type": "sql", "name": "fine", "sql": "SELECT * FROM output WHERE amount > 100 OR customer LIKE '%x%'"},
    )
    assert (result["new"], "warnings" in result) == (20, False)


def test_not_null_names_the_first_keys(checked: Checked, rows: Rows) -> None:
    change = "UPDATE orders SET customer = NULL WHERE id > 12"
    found = blocked(checked, {"type": "not_null", "columns": ["customer"]}, change=change)
    assert found == (
        'not_null: customer is empty in 8 rows: {"id": 13}; {"id": 14}; {"id": 15}; {"id": 16}; {"id": 17} ….',
    )
    assert rows("SELECT to_regclass('checked') AS made") == [{"made": None}]


def test_unique_looks_at_the_whole_target(checked: Checked, execute: Run) -> None:
    execute("CREATE TABLE checked (id int PRIMARY KEY, customer text, amount numeric, at timestamptz)")
    execute("INSERT INTO checked VALUES (99, 'c3', 0, NULL), (98, 'old', 0, NULL), (97, 'old', 0, NULL)")
    found = blocked(checked, {"type": "unique", "columns": ["customer"]})
    assert found == ('unique: customer is there more than once, 1 value: {"rows": 2, "customer": "c3"}.',)


def test_range_and_sql_and_all_that_block_are_told_together(checked: Checked) -> None:
    found = blocked(
        checked,
        {"type": "range", "column": "amount", "min": 2},
        {"type": "range", "column": "at", "min": "2026-06-01", "severity": "warn"},
        {"type": "sql", "name": "no tens", "sql": "SELECT id, amount FROM target WHERE amount = 10 -- why"},
    )
    assert found == (
        'range: amount is outside 2.. in 1 row: {"id": 1}.',
        'no tens: 1 row: {"id": 10, "amount": 10}.',
    )


def test_a_warning_is_told_and_the_load_goes_in(checked: Checked, rows: Rows) -> None:
    result = checked({"type": "range", "column": "amount", "max": 19, "severity": "warn"}, mode="append")
    assert len(result["warnings"]) == 1
    assert result["warnings"][0].startswith("range: amount is outside ..19 in 1 row: {")
    assert rows("SELECT count(*) AS n FROM checked") == [{"n": 20}]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (
            {"type": "not_null", "columns": ["nix"]},
            "names the column 'nix', which the load does not have: id, customer",
        ),
        (
            {"type": "range", "column": "amount", "min": "low"},
            "range of amount: .* invalid input syntax for type numeric",
        ),
        (
            {"type": "sql", "name": "typo", "sql": "SELECT nix FROM output"},
            "The check 'typo': .* column \"nix\" does not",
        ),
        ({"type": "sql", "name": "sly", "sql": "SELECT nextval('beatline.audit_id_seq')"}, "read-only"),
    ],
)
def test_a_check_that_cannot_be_asked_stops_the_load(
    checked: Checked, rows: Rows, check: dict[str, Any], said: str
) -> None:
    with pytest.raises(JobError, match=said):
        checked(check)
    assert rows("SELECT to_regclass('checked') AS made") == [{"made": None}]
