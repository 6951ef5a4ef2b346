"""The demo as a person runs it: whole, with its own servers, and with something taken away and added on purpose."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest
import sqlalchemy

from beatline.embedded.runfile import find_running
from support.processes import Spawned, Spawner

pytestmark = pytest.mark.timeout(240)

COUNTED_S = 150
STRANGERS = {
    "DATABASE_URL": "postgresql://nobody:x@127.0.0.1:1/none",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
    "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/0",
    "BEATLINE_LEASE_S": "300",
}
"""What other programs may have set: the demo has servers of its own."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "a home with spaces"


def start(spawner: Spawner, home: Path, *options: str) -> Spawned:
    env = {**STRANGERS, "BEATLINE_HOME": str(home)}
    return spawner.spawn("beatline.cli", "demo", "--seconds", "6", *options, env=env, name="demo")


def counted(output: str, name: str) -> int:
    found = re.search(rf"^{name} +(\d+)\s*$", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1])


def left_running(home: Path) -> list[str]:
    """Command lines of processes that still know the demo's folder."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            line, environ = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(home) in text for text in (*line, *environ.values())):
            found.append(" ".join(line))
    return found


@pytest.mark.proof
@pytest.mark.xdist_group("demo")
def test_nothing_is_lost_and_nothing_doubled_though_a_worker_is_killed(spawner: Spawner, home: Path) -> None:
    """P2, P3: one tick, one run; nothing accepted is lost."""
    demo = start(spawner, home)
    assert demo.wait(COUNTED_S) == 0, demo.output()
    output = demo.output()
    assert (counted(output, "lost"), counted(output, "doubled")) == (0, 0)
    assert "1,461 of 1,461" in output
    assert re.search(
        # In between it may meet the lock of the next run, and wait for it.
        r"killed +collect-\d in run \S+: attempt 1 on collect-\d lost; (attempt \d on collect-\d retried; )*"
        r"attempt \d on collect-\d succeeded",
        output,
    )
    assert "48 of 48" in output
    assert re.search(r"deliveries +1 email sent, 1 store sent", output)
    assert re.search(r"messages +1 processed; found by \d+ polls of 20 mailboxes", output)
    assert [path.name for path in (home / "demo").iterdir()] == ["report"], "its data goes with it, the report stays"
    files = sorted((home / "demo" / "report").iterdir())
    assert {path.suffix for path in files} >= {".html", ".xlsx"}
    assert all(str(path) in output for path in files)
    assert left_running(home) == []


@pytest.mark.proof
@pytest.mark.xdist_group("kept demo")
def test_a_lost_row_and_a_doubled_run_are_found(spawner: Spawner, home: Path) -> None:
    demo = start(spawner, home, "--keep")
    demo.wait_for(r"Ctrl-C stops it", COUNTED_S)
    assert (counted(demo.output(), "lost"), counted(demo.output(), "doubled")) == (0, 0)
    assert re.search(r"Flower: http://127\.0\.0\.1:\d+/", demo.output())
    (folder,) = (home / "demo").glob("run-*")
    lose_a_day(folder)
    double_a_run(folder / "feed.jsonl")
    demo.send(signal.SIGINT)
    assert demo.wait(30) == 1, demo.output()
    assert "Counted again: 1 lost, 1 doubled." in demo.output()
    assert "1 of the feed's days are not in the dataset: 2014-07-04." in demo.output()
    assert re.search(r"1 runs completed two sequences of pages: [0-9a-f-]{36}\.", demo.output())
    assert left_running(home) == []


def lose_a_day(folder: Path) -> None:
    running = find_running(folder)
    assert running is not None
    url = running.database_url.replace("postgresql://", "postgresql+psycopg2://")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as conn:
        gone = conn.execute(sqlalchemy.text("DELETE FROM beatline_data.weather WHERE date = '2014-07-04'"))
        assert gone.rowcount == 1
    engine.dispose()


def double_a_run(log: Path) -> None:
    last = [line for line in log.read_text().splitlines() if '"status": 200' in line and '"last": true' in line][-1]
    with log.open("a") as file:
        file.write(last + "\n")
