"""What etl needs does not grow with what it moves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Engine, text

from support.processes import variables_of

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Run = Callable[[str], None]
ROWS: Final = 50_000
LIMIT_MB: Final = {"streamed": 150, "archive": 150, "duckdb": 200}
"""DuckDB takes 45 MB before it has read a row."""

SCRIPT: Final = """
import json, resource, sys
from beatline.installation import Installation
from beatline.task.context import RunContext
from beatline_tasks.etl.archive import run_archive
from beatline_tasks.etl.running import run_load
import beatline.app  # what a worker has loaded anyway

run = RunContext("r1", 1, 0, "etl.run_job", "etl", None, None)
result = (run_archive if sys.argv[1] == "archive" else run_load)(Installation.load(), "many", run)
if sys.platform == "linux":  # ru_maxrss would begin with what the parent had
    peak_kb = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
else:
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(result | {"peak_mb": peak_kb / 1024}))
"""
MAKE: Final = f"""
    CREATE TABLE many AS SELECT n AS id, now() - interval '2 days' AS at, 'name ' || n AS name, n / 7.0 AS value,
    repeat('x', 60) AS note, ARRAY['a', 'b'] AS tags FROM generate_series(1, {ROWS}) n
"""  # noqa: S608  # a number
OUTPUT: Final = {"table": "copied", "mode": "upsert", "key": ["id"]}

pytestmark = pytest.mark.proof


@pytest.mark.parametrize("how", list(LIMIT_MB))
def test_fifty_thousand_rows_need_little_memory(
    open_installation: Installation, add_job: AddJob, execute: Run, shop: Engine, how: str
) -> None:
    if how == "duckdb":
        pytest.importorskip("duckdb")
    if how == "archive":
        execute(MAKE)
        add_job("many", archive={"dataset": "many", "time_column": "at"})
    else:
        with shop.begin() as conn:
            conn.execute(text(MAKE))
        ordered = {"sql": "SELECT * FROM input ORDER BY name", "engine": "duckdb"}
        more: dict[str, Any] = {"transform": ordered} if how == "duckdb" else {}
        add_job("many", input={"connection": "shop", "table": "many"}, output=OUTPUT, **more)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        env=variables_of(open_installation.settings),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rows" if how == "archive" else "new"] == ROWS
    assert said["peak_mb"] < LIMIT_MB[how]
