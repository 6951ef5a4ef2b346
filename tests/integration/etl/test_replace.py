"""Mode replace: readers see the old rows or the new ones, and what belongs to the table stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from beatline_tasks.etl import actions
from beatline_tasks.etl.errors import BlockedError, JobError

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Load = Callable[..., dict[str, Any]]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]


@pytest.fixture
def figures(add_job: AddJob, execute: Run) -> None:
    execute("CREATE TABLE feed (id int, n int); INSERT INTO feed SELECT g, g FROM generate_series(1, 10) g")
    add_job("figures", input={"dataset": "feed"}, output={"table": "figures", "mode": "replace", "key": ["id"]})


@pytest.fixture
def role(execute: Run, open_installation: Installation) -> Iterator[str]:
    name = f"reader_{open_installation.engine.url.database}"
    execute(f"CREATE ROLE {name}")
    yield name
    execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.usefixtures("figures")
def test_the_rows_of_the_last_run_and_no_others(load: Load, rows: Rows, execute: Run) -> None:
    assert load("figures") == {"in": 10, "out": 10, "rejected": 0, "new": 10, "changed": 0}
    execute("DELETE FROM feed WHERE id > 3")
    assert "the table was exchanged" in load("figures")["replaced"]
    assert rows("SELECT id FROM figures ORDER BY id") == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert rows("SELECT relname FROM pg_class WHERE relname LIKE 'beatline_aside%'") == []


@pytest.mark.usefixtures("figures")
def test_grants_indexes_comments_and_constraints_are_kept(load: Load, rows: Rows, execute: Run, role: str) -> None:
    load("figures")
    execute(f"GRANT SELECT ON figures TO {role}; GRANT UPDATE (n) ON figures TO {role} WITH GRANT OPTION")
    execute("GRANT SELECT ON figures TO PUBLIC; COMMENT ON TABLE figures IS 'it''s ours'")
    execute("CREATE INDEX by_n ON figures (n DESC); ALTER TABLE figures ADD CONSTRAINT sane CHECK (n > 0)")
    execute("ALTER TABLE figures ALTER n SET DEFAULT 7")
    execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA beatline_data GRANT DELETE ON TABLES TO {role}")
    query = """
        SELECT relacl::text, (SELECT attacl::text FROM pg_attribute WHERE attrelid = c.oid AND attname = 'n') AS of_n,
               obj_description(c.oid), (SELECT array_agg(indexrelid::regclass::text ORDER BY indexrelid::regclass::text) FROM pg_index
               WHERE indrelid = c.oid), (SELECT array_agg(conname::text ORDER BY conname) FROM pg_constraint
               WHERE conrelid = c.oid AND contype <> 'n') AS constraints,
               (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = c.oid) AS fallback
        FROM pg_class c WHERE c.oid = 'figures'::regclass
    """
    before, oid = rows(query), rows("SELECT 'figures'::regclass::oid::text AS oid")
    assert "the table was exchanged" in load("figures")["replaced"]
    assert rows("SELECT 'figures'::regclass::oid::text AS oid") != oid
    after = rows(query)
    for found in (before, after):
        found[0]["relacl"] = sorted(found[0]["relacl"].strip("{}").split(","))
    assert after == before


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize(
    ("hanging", "said"),
    [
        ("CREATE VIEW seen AS SELECT n FROM figures", "the view seen reads it"),
        ("CREATE TABLE child (id int REFERENCES figures (id) DEFERRABLE INITIALLY DEFERRED)", "the foreign key"),
        ("ALTER TABLE figures ENABLE ROW LEVEL SECURITY", "it has row security"),
        ("ALTER TABLE figures SET (fillfactor = 70)", "it has storage parameters"),
        ("CREATE SEQUENCE s OWNED BY figures.n", "the sequence s is its own"),
        ("CREATE FUNCTION f() RETURNS SETOF figures LANGUAGE sql AS 'SELECT * FROM figures'", "cannot drop table"),
    ],
)
def test_what_hangs_on_the_table_is_kept_by_exchanging_the_rows(
    load: Load, rows: Rows, execute: Run, hanging: str, said: str
) -> None:
    execute("SET search_path TO beatline_data; SELECT 1")
    load("figures")
    execute(hanging)
    execute("DELETE FROM feed WHERE id > 3")
    oid = rows("SELECT 'figures'::regclass::oid::text AS oid")
    replaced = load("figures")["replaced"]
    assert said in replaced
    assert "the rows were exchanged" in replaced
    assert rows("SELECT count(*) AS n FROM figures") == [{"n": 3}]
    assert rows("SELECT 'figures'::regclass::oid::text AS oid") == oid
    assert rows("SELECT relname FROM pg_class WHERE relname LIKE 'beatline_aside%'") == []


@pytest.mark.usefixtures("figures")
def test_readers_are_not_held_up_while_it_is_built(
    load: Load, execute: Run, open_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.etl import replace

    load("figures")
    execute("DELETE FROM feed WHERE id > 3")
    seen: list[int] = []
    whole = replace.put_in_place

    def look_first(*args: Any) -> str:
        with open_installation.engine.begin() as conn:
            conn.exec_driver_sql("SET LOCAL lock_timeout TO '1s'")
            seen.append(conn.exec_driver_sql("SELECT count(*) FROM beatline_data.figures").scalar_one())
        return whole(*args)

    monkeypatch.setattr(replace, "put_in_place", look_first)
    load("figures")
    assert seen == [10]


def test_a_blocked_replacement_leaves_the_old_rows(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE feed (id int, n int); INSERT INTO feed VALUES (1, 1), (2, 2)")
    checks = [{"type": "row_count_change", "max_drop_pct": 20}, {"type": "range", "column": "n", "max": 5}]
    output = {"table": "figures", "mode": "replace"}
    add_job("figures", input={"dataset": "feed"}, output=output, checks=checks)
    load("figures")
    execute("DELETE FROM feed; INSERT INTO feed VALUES (3, 9)")
    with pytest.raises(BlockedError) as caught:
        load("figures")
    assert caught.value.found == (
        "row_count_change: 1 rows after 2 are -50.0 %, and a drop of 20 % is accepted.",
        'range: n is outside ..5 in 1 row: {"n": 9, "id": 3}.',
    )
    assert rows("SELECT id FROM figures ORDER BY id") == [{"id": 1}, {"id": 2}]


def test_replace_evolves_what_it_builds(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE feed (id int); INSERT INTO feed VALUES (1)")
    add_job("figures", input={"dataset": "feed"}, output={"table": "figures", "mode": "replace"})
    load("figures")
    execute("ALTER TABLE feed ADD more text DEFAULT 'x', ALTER id TYPE bigint")
    assert load("figures")["table"] == ["widens the column id from integer to bigint", "adds the column more (text)"]
    execute("ALTER TABLE feed ADD most text DEFAULT 'y'; CREATE VIEW seen AS SELECT id FROM figures")
    assert "the rows were exchanged" in load("figures")["replaced"]
    assert rows("SELECT * FROM figures") == [{"id": 1, "more": "x", "most": "y"}]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
@pytest.mark.parametrize("whole_table", [True, False])
def test_rows_of_other_tables_are_never_touched(
    add_job: AddJob,
    load: Load,
    rows: Rows,
    execute: Run,
    open_installation: Installation,
    action: str,
    whole_table: bool,
) -> None:
    parted = "" if whole_table else " PARTITION BY RANGE (id)"
    execute(f"CREATE TABLE feed AS SELECT 1 AS id; CREATE TABLE figures (id int PRIMARY KEY){parted}")
    if parted:
        execute("CREATE TABLE low PARTITION OF figures FOR VALUES FROM (0) TO (10)")
    execute("INSERT INTO figures VALUES (1)")
    execute(
        f"CREATE TABLE child (id int DEFAULT NULL REFERENCES {'figures' if whole_table else 'low'} ON DELETE {action})"
    )
    execute("INSERT INTO child VALUES (1)")
    job = add_job("figures", input={"dataset": "feed"}, output={"table": "figures", "mode": "replace", "key": ["id"]})
    said = f"the foreign key child_id_fkey of .*child has ON DELETE {action}"
    with pytest.raises(JobError, match=said):
        load("figures")
    found = actions.check(open_installation, job)
    assert not found.ok
    assert f"child_id_fkey of child has ON DELETE {action}" in found.text
    assert rows("SELECT id FROM child") == [{"id": 1}]


@pytest.mark.usefixtures("figures")
def test_a_foreign_key_that_comes_meanwhile_is_seen(
    load: Load, rows: Rows, execute: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.etl import replace

    load("figures")
    whole = replace.put_in_place

    def add_a_key(*args: Any) -> str:
        execute("CREATE TABLE child AS SELECT 1 AS id")
        execute("ALTER TABLE child ADD CONSTRAINT late FOREIGN KEY (id) REFERENCES figures (id) ON DELETE CASCADE")
        return whole(*args)

    monkeypatch.setattr(replace, "put_in_place", add_a_key)
    with pytest.raises(JobError, match=r"the foreign key late of .*child has ON DELETE CASCADE"):
        load("figures")
    assert rows("SELECT id FROM child") == [{"id": 1}]


def test_a_table_may_cascade_within_itself(add_job: AddJob, load: Load, rows: Rows, execute: Run) -> None:
    execute("CREATE TABLE feed AS SELECT 2 AS id, CAST(NULL AS int) AS parent")
    execute("CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE)")
    execute("INSERT INTO tree VALUES (1, NULL), (3, 1)")
    add_job("tree", input={"dataset": "feed"}, output={"table": "tree", "mode": "replace", "key": ["id"]})
    load("tree")
    assert rows("SELECT id FROM tree") == [{"id": 2}]
