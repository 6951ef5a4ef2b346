"""The migrated schema is the one that the code's metadata describes, whatever it is called and however often upgraded."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from beatline.clock import utc_today
from beatline.errors import SchemaError, ServiceError
from beatline.ledger import migrations, partitions
from beatline.ledger.database import check_schema, open_engine, upgrade
from beatline.ledger.model import PARTITIONED, SCHEMA, metadata

for _module in ("beatline.api.tokens", "beatline.artifacts.tables",
                *(f"beatline_tasks.{family}.tables" for family in ("etl", "report", "email"))):  # fmt: skip
    import_module(_module)  # puts its tables on the metadata

if TYPE_CHECKING:
    from beatline.settings import Settings
    from support.serving import MakeSettings

_COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
           pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum), obj_description(c.oid, 'pg_class')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
_CONSTRAINTS = """
    SELECT c.relname, k.conname, k.contype,
           replace(pg_get_constraintdef(k.oid), ' ' || CAST(CAST(:schema AS regnamespace) AS text) || '.', ' ')
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE k.connamespace = CAST(:schema AS regnamespace) AND NOT c.relispartition
"""
_INDEXES = """
    SELECT tablename, indexname, replace(indexdef, ' ' || CAST(CAST(:schema AS regnamespace) AS text) || '.', ' ')
    FROM pg_indexes i JOIN pg_class c ON c.relname = i.tablename
         AND c.relnamespace = CAST(:schema AS regnamespace) AND NOT c.relispartition
    WHERE schemaname = :schema
"""
_PARTITIONING = """
    SELECT c.relname, pg_get_partkeydef(c.oid) FROM pg_class c
    WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind = 'p'
"""


def _described(conn: Connection, schema: str) -> dict[str, set[tuple[object, ...]]]:
    def rows(query: str) -> set[tuple[object, ...]]:
        found = conn.execute(text(query), {"schema": schema})
        return {tuple(row) for row in found if row[0] != migrations.VERSION_TABLE}

    return {
        "columns": rows(_COLUMNS),
        # Not-null constraints are rows here from PostgreSQL 18 on; the columns have said it already.
        "constraints": {row for row in rows(_CONSTRAINTS) if row[2] != "n"},
        "indexes": rows(_INDEXES),
        "partitioning": rows(_PARTITIONING),
    }


def test_the_migrated_schema_is_the_models(settings: Settings) -> None:
    engine = open_engine(settings)
    with engine.connect() as conn:
        conn.execute(text("CREATE SCHEMA fresh"))
        metadata.create_all(conn.execution_options(schema_translate_map={SCHEMA: "fresh"}))
        fresh = _described(conn, "fresh")
        migrated = _described(conn, settings.database_schema)
    assert len(fresh["columns"]) > 100
    for what in fresh:
        assert migrated[what] == fresh[what], what


def test_alembic_sees_nothing_to_do(settings: Settings) -> None:
    # The user is called as the schema is: on its own search path PostgreSQL names a foreign key's table without one.
    engine = create_engine(settings.database_url, connect_args={"options": "-c search_path=public"})

    def ours(thing: Any, _name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        return kind != "table" or thing.schema == SCHEMA

    with engine.connect() as conn:
        leaves = set(conn.execute(text("SELECT relname FROM pg_class WHERE relispartition")).scalars())

        def whole(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "table" or name not in leaves

        options: dict[str, Any] = {
            "include_schemas": True,
            "include_name": whole,
            "include_object": ours,
            "version_table_schema": SCHEMA,
            "compare_type": True,
            "compare_server_default": True,
        }
        context = MigrationContext.configure(conn, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_revisions_that_the_code_names_are_the_migrations(settings: Settings) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.__path__[0]))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())
    assert [s.revision for s in reversed(scripts)] == list(migrations.KNOWN)
    for script in scripts:
        place = script.path.rpartition("/")[2].split("_")[1]
        assert place in ("pre", "post"), script.path


def test_a_second_upgrade_changes_nothing(settings: Settings) -> None:
    assert upgrade(settings) == []
    check_schema(settings)


def test_the_schema_may_have_another_name(make_settings: MakeSettings) -> None:
    settings = make_settings(database_schema="order", data_schema="order_data")
    with pytest.raises(SchemaError, match="run `beatline db upgrade`") as caught:
        check_schema(settings)
    assert caught.value.state == "missing"
    assert "created schema order" in upgrade(settings)
    check_schema(settings)
    with open_engine(settings).connect() as conn:
        assert conn.execute(metadata.tables["beatline.runs"].select()).all() == []


def test_upgrades_at_once_wait_for_one_another(make_settings: MakeSettings, empty_database: str) -> None:
    settings = make_settings(database_url=empty_database)
    told: list[list[str]] = []
    threads = [threading.Thread(target=lambda: told.append(upgrade(settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, told))[:2] == [0, 0]
    assert sum("applied migration 0001" in lines for lines in told) == 1


def test_a_newer_schema_is_refused_and_left_alone(settings: Settings) -> None:
    with open_engine(settings).begin() as conn:
        conn.execute(text("UPDATE beatline.alembic_version SET version_num = '9999'"))
    for refused in (check_schema, upgrade):
        with pytest.raises(SchemaError, match=r"9999, newer than this Beatline .* upgrade the code") as caught:
            refused(settings)
        assert caught.value.state == "newer"


def test_an_unreachable_server_is_one_sentence(make_settings: MakeSettings) -> None:
    settings = make_settings(database_url="postgresql://u:hunter2@127.0.0.1:1/none")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:1/none does not answer") as caught:
        upgrade(settings)
    assert "hunter2" not in str(caught.value)


def test_who_may_not_create_a_schema_is_told_what_to_ask_for(make_settings: MakeSettings, empty_database: str) -> None:
    admin = create_engine(make_settings(database_url=empty_database).database_url)
    name = f"guest_{admin.url.database}"
    with admin.begin() as conn:
        conn.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'x'"))
    guest = admin.url.set(username=name, password="x", drivername="postgresql")
    try:
        with pytest.raises(ServiceError, match="grant CREATE on the database"):
            upgrade(make_settings(database_url=guest.render_as_string(hide_password=False)))
    finally:
        with admin.begin() as conn:
            conn.execute(text(f"DROP ROLE {name}"))
        admin.dispose()


def test_each_partitioned_table_has_its_partitions(settings: Settings) -> None:
    with open_engine(settings).connect() as conn:
        for table in PARTITIONED:
            days = partitions.days_of(conn, table)
            assert days[0] == utc_today()
            assert len(days) == partitions.AHEAD_DAYS + 1
