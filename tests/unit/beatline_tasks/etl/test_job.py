"""What a job may say, and what is said of one that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from beatline.definitions import specs
from beatline.errors import DefinitionError
from beatline.families import kinds

OUTPUT = {"table": "t", "mode": "upsert", "key": ["id"]}
INPUT = {"dataset": "d"}


def wrong(**spec: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        specs.check(kinds()["job"], "j", spec)
    return str(caught.value)


def test_a_whole_job_is_taken() -> None:
    specs.check(
        kinds()["job"],
        "j",
        {
            "input": {"connection": "shop", "query": "SELECT * FROM orders;"},
            "transform": {"sql": "SELECT * FROM input", "engine": "duckdb"},
            "output": OUTPUT | {"columns": {"id": "integer", "at": "timestamp"}, "contract": "freeze"},
            "watermark": {"field": "at", "overlap_s": 60},
            "checks": [
                {"type": "not_null", "columns": ["at"]},
                {"type": "range", "column": "id", "min": 1},
                {"type": "row_count_change", "max_drop_pct": 50, "severity": "warn"},
                {"type": "sql", "name": "no orphans", "sql": "SELECT * FROM output WHERE id < 0"},
            ],
        },
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "a job has input and output, or archive"),
        ({"input": INPUT}, "a job has input and output, or archive"),
        ({"input": {}, "output": OUTPUT}, "input: name a dataset, or a connection with query or table"),
        ({"input": INPUT | {"table": "x"}, "output": OUTPUT}, "input: query and table go with a connection"),
        ({"input": {"connection": "c"}, "output": OUTPUT}, "input: a connection goes with a query, or with a table"),
        ({"input": {"connection": "c", "query": "DROP TABLE x"}, "output": OUTPUT}, "input.query: is no SELECT"),
        ({"input": {"connection": "c", "table": "a.b.c"}, "output": OUTPUT}, "is no table: write table or schema.table"),
        ({"input": INPUT, "output": {"table": "t", "mode": "upsert"}}, "output: mode upsert needs a key"),
        ({"input": INPUT, "output": {"table": "a.b", "mode": "append"}}, "leave the schema's name out"),
        ({"input": INPUT, "output": OUTPUT | {"mode": "merge"}}, "output.mode: must be 'upsert', 'replace' or 'append'"),
        ({"input": INPUT, "output": OUTPUT | {"columns": {"a": "int"}}}, "output.columns.a: must be 'text'"),
        ({"input": INPUT, "output": OUTPUT | {"mode": "replace"}, "watermark": {"field": "a"}}, "mode replace would drop"),
        ({"input": INPUT, "output": {"table": "t", "mode": "append"}, "watermark": {"field": "a"}}, "needs output.key"),
        ({"input": INPUT, "output": OUTPUT, "checks": [{"type": "range", "column": "a"}]}, "give min, max, or both"),
        ({"input": INPUT, "output": OUTPUT, "checks": [{"type": "nul"}]}, "checks.0.type: must be one of"),
        ({"archive": {"dataset": "d", "time_column": "at", "zone": "Mars/X"}}, "archive.zone: 'Mars/X' is no time zone"),
        ({"archive": {"dataset": "d", "time_column": "at", "older_than_days": 0}}, "greater than or equal to 1"),
        ({"archive": {"dataset": "d", "time_column": "at"}, "output": OUTPUT}, "a job with archive has no output"),
        ({"input": INPUT, "output": OUTPUT | {"key": ["beatline_row"]}}, "begin with beatline_ are Beatline's own"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_field(spec: dict[str, Any], said: str) -> None:
    assert said in wrong(**spec)
