"""Archives: a day's rows are in the table or in a file, never in both and never in neither."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from beatline.artifacts import ArtifactStore
from beatline.definitions.lock import definition_lock
from beatline.errors import NotFoundError, TransientError
from beatline.task.context import RunContext
from beatline_tasks.etl import archive as archiving
from beatline_tasks.etl import archive_file
from beatline_tasks.etl.archive import run_archive
from beatline_tasks.etl.errors import JobError

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddJob = Callable[..., "Definition"]
Rows = Callable[..., list[dict[str, Any]]]
Run = Callable[[str], None]
Archive = Callable[..., Any]

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
RUN = RunContext("run-1", 1, 0, "etl.archive", "etl", None, None)


def days_ago(days: int) -> str:
    return (NOON - timedelta(days=days)).date().isoformat()


@pytest.fixture
def archive(open_installation: Installation) -> Archive:
    def run(name: str = "old") -> Any:
        return run_archive(open_installation, name, RUN)

    return run


@pytest.fixture
def lines(execute: Run) -> None:
    """Ten rows at noon of each of the last four days, and of today."""
    execute("CREATE TABLE lines (id int, at timestamptz, said text, doc jsonb)")
    for days in range(5):
        execute(
            f"INSERT INTO lines SELECT {days * 10} + n, '{(NOON - timedelta(days=days)).isoformat()}', "  # noqa: S608
            "E'a \"word\",\\nand \\\\ more', jsonb_build_object('n', n, 's', E'x\\ny\\\\z') FROM generate_series(0, 9) n"
        )


def content(installation: Installation, artifact_id: str) -> str:
    from uuid import UUID

    return gzip.decompress(ArtifactStore.of(installation).read(installation.engine, UUID(artifact_id))).decode()


@pytest.mark.usefixtures("lines")
def test_missed_days_are_caught_up_one_by_one(
    add_job: AddJob, archive: Archive, rows: Rows, open_installation: Installation
) -> None:
    add_job("old", archive={"dataset": "lines", "time_column": "at"})
    result = archive()
    assert (result["files"], result["rows"]) == (4, 40)
    assert [(file["day"], file["part"], file["rows"]) for file in result["archived"]] == [
        (days_ago(days), 1, 10) for days in (4, 3, 2, 1)
    ]
    assert rows("SELECT count(*) AS n, min(id) AS first FROM lines") == [{"n": 10, "first": 0}]
    found = list(csv.DictReader(io.StringIO(content(open_installation, result["archived"][0]["artifact"]), newline="")))
    assert [int(row["id"]) for row in found] == list(range(40, 50))
    assert found[3]["said"] == 'a "word",\nand \\ more'
    assert json.loads(found[3]["doc"]) == {"n": 3, "s": "x\ny\\z"}
    logged = rows(
        "SELECT job, dataset, day::text, part, state, rows, a.sha256 = f.sha256 AS same, f.name, f.family "
        "FROM beatline.etl_archives a JOIN beatline.artifacts f ON f.id = a.artifact_id ORDER BY a.id LIMIT 1"
    )
    day = days_ago(4)
    assert logged == [
        {"job": "old", "dataset": "lines", "day": day, "part": 1, "state": "archived", "rows": 10, "same": True,
         "name": f"lines-{day}.csv.gz", "family": "etl"}
    ]  # fmt: skip
    assert archive() == {"files": 0, "rows": 0, "archived": []}


@pytest.mark.usefixtures("lines")
def test_a_file_can_be_loaded_again_as_it_was(
    add_job: AddJob, archive: Archive, rows: Rows, execute: Run, open_installation: Installation
) -> None:
    execute("CREATE TABLE before AS SELECT * FROM lines; CREATE TABLE back (LIKE lines)")
    add_job("old", archive={"dataset": "lines", "time_column": "at"})
    conn = open_installation.engine.raw_connection()
    try:
        cursor: Any = conn.cursor()
        for file in archive()["archived"]:
            text = content(open_installation, file["artifact"])
            cursor.copy_expert("COPY beatline_data.back FROM STDIN (FORMAT csv, HEADER)", io.StringIO(text))
        conn.commit()
    finally:
        conn.close()
    assert rows("(TABLE before EXCEPT ALL (TABLE lines UNION ALL TABLE back))") == []
    assert rows("SELECT count(*) AS n FROM back") == [{"n": 40}]


@pytest.mark.usefixtures("lines")
def test_rows_that_come_late_go_into_a_further_file(
    add_job: AddJob, archive: Archive, rows: Rows, execute: Run, open_installation: Installation
) -> None:
    add_job("old", archive={"dataset": "lines", "time_column": "at", "format": "jsonl", "keep_days": 10})
    archive()
    late = (NOON - timedelta(days=2)).isoformat()
    execute(
        f"ALTER TABLE lines ALTER doc TYPE json; INSERT INTO lines VALUES (99, '{late}', 'late\t', E'{{\"a\":\\n 1}}')"  # noqa: S608
    )
    result = archive()
    assert [(file["day"], file["part"], file["rows"]) for file in result["archived"]] == [(days_ago(2), 2, 1)]
    [line] = content(open_installation, result["archived"][0]["artifact"]).splitlines()
    assert json.loads(line) == {"id": 99, "at": late, "said": "late\t", "doc": {"a": 1}}
    names = rows(
        "SELECT name, expires_at - created_at AS kept FROM beatline.artifacts ORDER BY created_at DESC LIMIT 1"
    )
    assert names == [{"name": f"lines-{days_ago(2)}-2.jsonl.gz", "kept": timedelta(days=10)}]


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_a_day_is_a_day_of_the_zone(add_job: AddJob, archive: Archive, rows: Rows, execute: Run, kind: str) -> None:
    zone = ZoneInfo("Pacific/Auckland")
    today = datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    moments = [today - timedelta(days=2), today - timedelta(seconds=1), today, today + timedelta(hours=9)]
    written = [str(m) if kind == "timestamptz" else str(m.replace(tzinfo=None)) for m in moments]
    execute(f"CREATE TABLE lines (id int, at {kind})")
    for number, moment in enumerate(written):
        execute(f"INSERT INTO lines VALUES ({number}, '{moment}')")  # noqa: S608
    add_job("old", archive={"dataset": "lines", "time_column": "at", "zone": "Pacific/Auckland"})
    result = archive()
    days = [(today - timedelta(days=days)).date().isoformat() for days in (2, 1)]
    assert [file["day"] for file in result["archived"]] == days
    assert rows("SELECT id FROM lines ORDER BY id") == [{"id": 2}, {"id": 3}]


@pytest.mark.usefixtures("lines")
def test_rows_that_change_meanwhile_are_not_lost(
    add_job: AddJob, archive: Archive, rows: Rows, open_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job("old", archive={"dataset": "lines", "time_column": "at", "older_than_days": 4})
    whole = archive_file.write_rows

    def add_one(*args: Any) -> Any:
        with open_installation.engine.begin() as conn:
            conn.exec_driver_sql(
                f"INSERT INTO beatline_data.lines VALUES (77, '{(NOON - timedelta(days=4)).isoformat()}')"  # noqa: S608
            )
        monkeypatch.undo()
        return whole(*args)

    monkeypatch.setattr(archiving, "write_rows", add_one)
    result = archive()
    assert [(file["part"], file["rows"]) for file in result["archived"]] == [(1, 10), (2, 1)]
    assert rows("SELECT count(*) AS n FROM lines") == [{"n": 40}]


def test_what_is_wrong_is_said(
    add_job: AddJob, archive: Archive, execute: Run, open_installation: Installation
) -> None:
    execute("CREATE TABLE lines (id int, at timestamptz)")
    add_job("column", archive={"dataset": "lines", "time_column": "when"})
    with pytest.raises(JobError, match=r"'when' is no column of beatline_data.lines; it has: id, at"):
        archive("column")
    add_job("kind", archive={"dataset": "lines", "time_column": "id"})
    with pytest.raises(JobError, match="'id' is integer: it must be a date or a time stamp"):
        archive("kind")
    add_job("table", archive={"dataset": "line", "time_column": "at"})
    with pytest.raises(JobError, match=r"no dataset line .* Did you mean lines"):
        archive("table")
    add_job("load", input={"dataset": "lines"}, output={"table": "x", "mode": "append"})
    with pytest.raises(JobError, match=r"it is for the task etl\.run_job"):
        archive("load")
    with pytest.raises(NotFoundError):
        archive("nobody")
    fine = add_job("fine", archive={"dataset": "lines", "time_column": "at"})
    other = replace(RUN, run_id="another", attempt=2)
    with definition_lock(open_installation.engine, fine, RUN):
        assert run_archive(open_installation, "fine", other) == "busy"
        with pytest.raises(TransientError, match="Another attempt still holds Job 'fine'") as held:
            run_archive(open_installation, "fine", replace(RUN, attempt=2))
        assert held.value.retry_after_s == 30


def test_rows_without_an_end_stay_and_hold_nothing_up(
    add_job: AddJob, archive: Archive, rows: Rows, execute: Run
) -> None:
    for kind in ("timestamptz", "timestamp", "date"):
        execute(f"CREATE TABLE {kind}s (id int, at {kind})")
        execute(f"INSERT INTO {kind}s VALUES (1, '-infinity'), (2, '2026-01-01'), (3, 'infinity'), (4, NULL)")  # noqa: S608
        add_job(kind, archive={"dataset": f"{kind}s", "time_column": "at"})
        assert [(file["day"], file["rows"]) for file in archive(kind)["archived"]] == [("2026-01-01", 1)]
        assert rows(f"SELECT id FROM {kind}s ORDER BY id") == [{"id": 1}, {"id": 3}, {"id": 4}]  # noqa: S608


def test_a_clock_that_is_put_back_at_midnight_makes_no_empty_day(
    add_job: AddJob, archive: Archive, execute: Run
) -> None:
    # At 00:01 of the 7th, 02:31 UTC, it became 23:01 of the 6th: the 7th began twice.
    execute("CREATE TABLE lines (id int, at timestamptz)")
    execute("INSERT INTO lines VALUES (1, '2010-11-07 02:30:30Z'), (2, '2010-11-07 03:00Z'), (3, '2010-11-07 03:30Z')")
    add_job("old", archive={"dataset": "lines", "time_column": "at", "zone": "America/St_Johns"})
    assert [(file["day"], file["rows"]) for file in archive()["archived"]] == [("2010-11-07", 3)]


def test_a_day_that_stays_empty_ends_the_run(
    add_job: AddJob, archive: Archive, execute: Run, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute("CREATE TABLE lines (id int, at timestamptz); INSERT INTO lines VALUES (1, '2026-01-01Z')")
    add_job("old", archive={"dataset": "lines", "time_column": "at"})
    day = archiving.Day(date(2026, 1, 1), "2026-01-01 01:00:00+00", "2026-01-02 01:00:00+00")

    def always(*_: object) -> archiving.Day:
        return day

    monkeypatch.setattr(archiving, "first_due", always)
    with pytest.raises(JobError, match=r"2026-01-01 is the oldest day of beatline_data.lines, and twice no row of it"):
        archive()
    assert rows("SELECT state, day::text FROM beatline.etl_archives") == [{"state": "failed", "day": "2026-01-01"}]


def test_a_day_before_our_era_is_told(add_job: AddJob, archive: Archive, execute: Run) -> None:
    execute("CREATE TABLE lines (id int, at date); INSERT INTO lines VALUES (1, '0044-03-15 BC')")
    add_job("old", archive={"dataset": "lines", "time_column": "at"})
    with pytest.raises(JobError, match="of the day 0044-03-15 BC, which no file can be named after: correct its at"):
        archive()


@pytest.mark.usefixtures("lines")
def test_a_full_disk_may_pass(add_job: AddJob, archive: Archive, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 100:  # the head of the file, which a buffer would hold, still gets in
                raise OSError(28, "No space left on device")
            return super().write(data)

    add_job("old", archive={"dataset": "lines", "time_column": "at"})
    monkeypatch.setattr(archiving, "open_file", lambda: nullcontext(Full()))
    with pytest.raises(TransientError, match="Archiving: the disk for temporary files refuses it: No space left"):
        archive()
    assert rows("SELECT count(*) AS n FROM lines") == [{"n": 50}]
    monkeypatch.undo()
    assert archive()["rows"] == 40
