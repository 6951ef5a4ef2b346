"""A process that is killed anywhere: run again, nothing is doubled, nothing is lost, nothing is half visible."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Engine, text

from beatline.task.context import RunContext
from beatline_tasks.etl.archive import run_archive
from beatline_tasks.etl.errors import JobError
from support.processes import Spawn

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]
Attempt = Callable[..., int]

SCRIPT: Final = """
import sys
from beatline.installation import Installation
from beatline.task.context import RunContext
from beatline_tasks.etl.archive import run_archive
from beatline_tasks.etl.running import run_load

run = RunContext("the-run", 1, 0, "etl", "etl", None, None)
what = {"load": run_load, "archive": run_archive}[sys.argv[1]]
print(what(Installation.load(), "job", run))
"""

pytestmark = pytest.mark.proof


@pytest.fixture
def attempt(spawn: Spawn, open_installation: Installation, tmp_path: Any) -> Attempt:
    """Runs the job in a process of its own, which dies at a place if one is named; its exit code."""
    script = tmp_path / "attempt.py"
    script.write_text(SCRIPT)

    def run(what: str, place: str = "") -> int:
        env = {"BEATLINE_TEST_FAILPOINT": place, "PYTHONPATH": str(tmp_path)}
        spawned = spawn("attempt", what, settings=open_installation.settings, env=env)
        code = spawned.wait(30)
        assert code in (0, -signal.SIGKILL), spawned.output()
        return code

    return run


@pytest.mark.parametrize(
    ("mode", "place", "visible"),
    [("append", "etl_loaded", 0), ("append", "etl_committed", 100), ("replace", "etl_loaded", 0)],
)
def test_a_load_that_is_killed_is_done_once(
    add_job: AddJob, rows: Rows, execute: Run, attempt: Attempt, mode: str, place: str, visible: int
) -> None:
    execute(
        "CREATE TABLE feed AS SELECT n AS id FROM generate_series(1, 100) n; CREATE TABLE target (id int PRIMARY KEY)"
    )
    add_job("job", input={"dataset": "feed"}, output={"table": "target", "mode": mode})
    assert attempt("load", place) == -signal.SIGKILL
    assert rows("SELECT count(*) AS n FROM target") == [{"n": visible}]
    assert attempt("load") == 0
    assert rows("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM target") == [{"n": 100, "ids": 100}]
    assert rows("SELECT run_id FROM beatline.etl_loads") == [{"run_id": "the-run"}]
    assert rows("SELECT relname FROM pg_class WHERE relname LIKE 'beatline_aside%'") == []


@pytest.mark.parametrize(("place", "visible"), [("etl_loaded", 0), ("etl_committed", 9)])
def test_into_another_database_too(
    add_job: AddJob, rows: Rows, execute: Run, attempt: Attempt, shop: Engine, place: str, visible: int
) -> None:
    execute("CREATE TABLE feed AS SELECT n::text AS id FROM generate_series(1, 9) n; INSERT INTO feed VALUES ('bad')")
    with shop.begin() as conn:
        conn.execute(text("CREATE TABLE target (id int)"))
    add_job("job", input={"dataset": "feed"}, output={"connection": "mart", "table": "target", "mode": "append"})
    assert attempt("load", place) == -signal.SIGKILL
    for expected in (visible, 9):
        with shop.connect() as conn:
            assert conn.execute(text("SELECT count(*) FROM target")).scalar() == expected
        assert rows("SELECT count(*) AS n FROM beatline.etl_rejected") == [{"n": 1}]
        assert attempt("load") == 0


@pytest.mark.parametrize("place", ["etl_archive_stored:2", "etl_archive_deleted:2", "etl_archived:2"])
def test_an_archive_that_is_killed_goes_on(
    add_job: AddJob, rows: Rows, execute: Run, attempt: Attempt, place: str
) -> None:
    execute(
        "CREATE TABLE lines AS SELECT n AS id, now() - make_interval(days => n % 4 + 1) AS at FROM generate_series(0, 39) n"
    )
    add_job("job", archive={"dataset": "lines", "time_column": "at"})
    assert attempt("archive", place) == -signal.SIGKILL
    done = 2 if place.startswith("etl_archived") else 1
    logged = "SELECT count(*) AS n, sum(rows)::int AS rows FROM beatline.etl_archives WHERE state = 'archived'"
    assert rows(logged) == [{"n": done, "rows": done * 10}]
    assert rows("SELECT count(*) AS n FROM lines") == [{"n": 40 - done * 10}]
    assert attempt("archive") == 0
    assert rows(logged) == [{"n": 4, "rows": 40}]
    assert rows("SELECT max(part) AS part FROM beatline.etl_archives") == [{"part": 1}]
    assert rows("SELECT count(*) AS n FROM lines") == [{"n": 0}]


def test_a_file_that_does_not_read_back_leaves_the_rows(
    add_job: AddJob, rows: Rows, execute: Run, attempt: Attempt, open_installation: Installation
) -> None:
    execute("CREATE TABLE lines AS SELECT n AS id, now() - interval '2 days' AS at FROM generate_series(1, 40) n")
    add_job("job", archive={"dataset": "lines", "time_column": "at"})
    assert attempt("archive", "etl_archive_deleted") == -signal.SIGKILL
    [stored] = (open_installation.settings.home / "artifacts").glob("??/*")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-5] + bytes([whole[-5] ^ 0xFF]) + whole[-4:])  # of its check sum
    with pytest.raises(JobError, match=r"does not read back: 0 rows and checksum .* The rows are where they were"):
        run_archive(open_installation, "job", RunContext("again", 1, 0, "etl.archive", "etl", None, None))
    assert rows("SELECT count(*) AS n FROM lines") == [{"n": 40}]
    assert rows("SELECT count(*) AS n FROM beatline.artifacts") == [{"n": 0}]
    assert rows("SELECT state, rows, run_id FROM beatline.etl_archives") == [
        {"state": "failed", "rows": None, "run_id": "again"}
    ]
    stored.unlink()
    assert attempt("archive") == 0
    assert rows("SELECT count(*) AS n FROM lines") == [{"n": 0}]
