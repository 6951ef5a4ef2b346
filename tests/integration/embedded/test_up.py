"""`beatline up` and `beatline status`: everything on one machine, found by others, gone without a trace."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg2
import pytest

from beatline.embedded.runfile import find_running
from beatline.ledger.migrations import VERSION_TABLE
from beatline.queues.topology import TOPOLOGY
from support.processes import Spawned, Spawner
from support.waiting import wait_until

LIMIT_MB: Final = 700
STOP_S: Final = 10.0
TASKS: Final = """
import time
from celery import shared_task

@shared_task(name="t.sleep", queue="default")
def sleep(seconds):
    time.sleep(seconds)
"""


# With --dist loadgroup one process runs all of this, and the tests that only look share one `up`.
pytestmark = [pytest.mark.xdist_group("up"), pytest.mark.timeout(120), pytest.mark.proof]


class Up:
    """A `beatline up` on a folder of its own, with the tasks above."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.home = folder / ".beatline"
        self.env = {"PYTHONPATH": str(folder), "BEATLINE_TASK_MODULES": "uptasks", **env}
        (folder / "uptasks.py").write_text(TASKS)
        (folder / "output").mkdir()
        self.spawner = Spawner(folder / "output")

    def spawn(self) -> Spawned:
        return self.spawner.spawn("beatline.cli", "up", env=self.env, cwd=self.folder)

    def start(self) -> Spawned:
        spawned = self.spawn()
        spawned.wait_for(r"Everything runs: \d+ MB", timeout_s=90)
        return spawned

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it, as from another terminal."""
        return subprocess.run(
            [sys.executable, "-m", *argv],
            cwd=self.folder, env=os.environ | self.env, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def status(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """The exit code of `beatline status`, and its rows by name."""
        done = self.run("beatline.cli", "status", "--json")
        rows: list[dict[str, Any]] = json.loads(done.stdout)["processes"]
        return done.returncode, {row["name"]: row for row in rows}


def below(spawned: Spawned) -> list[psutil.Process]:
    return psutil.Process(spawned.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    alive = [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not alive
    return True


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that tests may look at, and may kill a worker of."""
    up = Up(tmp_path_factory.mktemp("a folder"))
    try:
        up.start()
        yield up
    finally:
        up.spawner.end()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """One that a test may start, break and stop."""
    found = Up(tmp_path)
    yield found
    found.spawner.end()


def test_status_says_what_runs_where(running: Up) -> None:
    code, rows = running.status()

    assert code == 0
    assert {row["state"] for row in rows.values()} == {"ready"}
    assert {row["kind"] for row in rows.values()} == {
        "supervisor", "redis", "postgres", "beat", "worker", "recorder", "flower", "api",
    }  # fmt: skip
    assert all(row["pid"] and row["memory_mb"] > 0 for row in rows.values())
    shown = running.run("beatline.cli", "status")
    assert re.search(r"^ flower +flower +http://127.0.0.1:\d+/ +\d+ +[\d.]+ +ready", shown.stdout, re.MULTILINE)


def test_every_queue_has_a_consumer(running: Up) -> None:
    _, rows = running.status()

    served = [queue for row in rows.values() if row["kind"] == "worker" for queue in row["what"].split(", ")]

    assert sorted(served) == sorted(queue.name for queue in TOPOLOGY)


def test_all_of_it_takes_less_than_its_limit(running: Up) -> None:
    wait_until(
        lambda: running.status()[0] == 0, timeout_s=30, what="everything runs, whatever a test before has killed"
    )
    _, rows = running.status()

    assert sum(row["memory_mb"] for row in rows.values()) < LIMIT_MB


def test_no_password_is_to_be_seen(running: Up) -> None:
    passwords = [(running.home / name / "password").read_text().strip() for name in ("valkey", "postgres")]
    found = find_running(running.home)
    assert found is not None

    lines = [" ".join(one.cmdline()) for one in psutil.Process(found.pid).children(recursive=True)]
    logs = "".join(log.read_text() for log in (running.home / "logs").glob("*.log"))
    shown = running.run("beatline.cli", "status").stdout

    for password in passwords:
        assert password in f"{found.redis_url} {found.database_url}"
        assert not [line for line in lines if password in line]
        assert password not in logs
        assert password not in shown


def test_any_command_finds_it_with_no_url_set(running: Up) -> None:
    program = (
        "from beatline.celery import app; r = app.send_task('t.sleep', args=[0], queue='default', ignore_result=False);"
        "print(r.get(timeout=20), r.state)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=running.folder, env=os.environ | running.env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.stdout.split() == ["None", "SUCCESS"], done.stderr


def test_a_second_one_on_the_folder_is_refused_and_harms_nothing(running: Up) -> None:
    wait_until(
        lambda: running.status()[0] == 0, timeout_s=30, what="everything runs, whatever a test before has killed"
    )
    done = running.run("beatline.cli", "up")

    assert done.returncode == 1
    assert re.fullmatch(r"A `beatline up` \(process \d+\) already runs on .*BEATLINE_HOME\.\n", done.stderr)
    assert {row["state"] for row in running.status()[1].values()} == {"ready"}


def test_a_worker_that_dies_is_started_again(running: Up) -> None:
    before = running.status()[1]["heavy"]["pid"]
    os.kill(before, signal.SIGKILL)

    def back() -> bool:
        code, rows = running.status()
        assert code in (0, 3)
        assert rows["heavy"]["pid"] not in (None, before)
        return code == 0

    wait_until(back, timeout_s=30, what="status is well again")
    log = (running.home / "logs/up.log").read_text()
    assert "heavy was killed by SIGKILL. Starting it again in 0.5 s." in log


def test_flowers_health_page_is_on_loopback_only(running: Up) -> None:
    def listens_on() -> set[str]:
        flower = psutil.Process(running.status()[1]["flower"]["pid"])
        return {one.laddr.ip for one in flower.net_connections() if one.status == psutil.CONN_LISTEN}

    assert wait_until(listens_on) == {"127.0.0.1"}


def test_status_without_one_names_what_to_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "beatline.cli", "status"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "start `beatline up`, or set BEATLINE_REDIS_URL and BEATLINE_DATABASE_URL" in done.stderr


def send_sleepers(up: Up) -> None:
    """Two tasks of a minute: one in a pool process, one in a thread. They run on return."""
    found = find_running(up.home)
    assert found is not None
    with (
        closing(psycopg2.connect(found.database_url.replace("+psycopg2", ""))) as connection,
        connection.cursor() as cursor,
    ):
        connection.autocommit = True
        cursor.execute("SELECT now()")
        since = cursor.fetchone()
        for queue in ("default", "collect"):
            up.run("celery", "-A", "beatline", "call", "t.sleep", "--args", "[60]", "--queue", queue)

        def both_run() -> bool:
            cursor.execute(
                "SELECT count(*) FROM beatline.runs WHERE state = 'running' AND attempt = 1 AND started_at > %s", since
            )
            return cursor.fetchone() == (2,)

        wait_until(both_run, timeout_s=20, what="both tasks run")


@pytest.mark.timeout(180)  # two starts, and a stop that gives tasks their time
def test_killed_or_stopped_while_tasks_run_it_leaves_no_process_and_keeps_its_data(up: Up) -> None:
    killed = up.start()
    send_sleepers(up)
    processes = below(killed)
    assert len(processes) > 15

    os.kill(killed.pid, signal.SIGKILL)

    wait_until(lambda: gone(processes), timeout_s=15, what="nothing of it is left")
    stopped = up.start()
    kept = json.loads(up.run("beatline.cli", "runs", "list", "--json").stdout)
    assert [run["task"] for run in kept if run["task"] == "t.sleep"] == ["t.sleep"] * 2
    send_sleepers(up)
    processes = below(stopped)
    began_s = time.monotonic()

    stopped.send(signal.SIGINT)

    assert stopped.wait(STOP_S + 1) == 0
    assert time.monotonic() - began_s < STOP_S
    assert gone(processes)
    assert not (up.home / "run.json").exists()
    assert find_running(up.home) is None


def test_ctrl_c_stops_it_while_it_starts(up: Up) -> None:
    spawned = up.spawn()
    wait_until(lambda: (up.home / "run.json").exists(), timeout_s=30, what="its servers run")
    processes = below(spawned)

    spawned.send(signal.SIGTERM)

    assert spawned.wait(STOP_S) == 0
    assert gone(processes)
    assert "Stopped before everything was ready." in spawned.output()


@pytest.mark.parametrize("variable", ["EMBEDDED_REDIS_PORT", "EMBEDDED_POSTGRES_PORT", "FLOWER_PORT", "API_PORT"])
def test_a_taken_port_is_one_sentence_and_nothing_stays(up: Up, variable: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        up.env[f"BEATLINE_{variable}"] = str(port)

        done = up.run("beatline.cli", "up", "--quiet")

    assert done.returncode == 1
    assert re.fullmatch(rf"Port {port} for [\w ]+ is taken .*BEATLINE_{variable}.*\n", done.stderr)
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(up.home) in " ".join(one.info["cmdline"] or ())]


def test_servers_that_are_given_are_used_and_ours_are_not_started(up: Up, valkey: str, empty_database: str) -> None:
    up.env |= {"BEATLINE_REDIS_URL": valkey, "DATABASE_URL": empty_database, "BEATLINE_KEY_PREFIX": "{given}:"}
    up.start()

    code, rows = up.status()

    assert code == 0
    assert (rows["redis"]["state"], rows["postgres"]["state"]) == ("given", "given")
    assert "valkey" not in rows
    assert not (up.home / "postgres").exists()
    assert ":***" not in rows["redis"]["what"]
    assert valkey.partition("@")[2] in rows["redis"]["what"]


def test_a_given_server_that_is_away_is_named(up: Up) -> None:
    up.env |= {"REDIS_URL": "redis://127.0.0.1:1/0"}

    done = up.run("beatline.cli", "up", "--quiet")

    assert done.returncode == 1
    assert "Redis at 127.0.0.1:1/0: cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_that_are_newer_than_the_code_are_named_and_kept(up: Up, valkey: str, empty_database: str) -> None:
    up.env |= {"REDIS_URL": valkey, "DATABASE_URL": empty_database, "BEATLINE_KEY_PREFIX": "{newer}:"}
    with closing(psycopg2.connect(empty_database)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA beatline")
        cursor.execute(f"CREATE TABLE beatline.{VERSION_TABLE} AS SELECT 'f999' AS version_num")
        connection.commit()

    done = up.run("beatline.cli", "up", "--quiet")

    assert done.returncode == 1
    assert re.fullmatch(
        r"The tables could not be brought up to date: .* at revision f999, newer than .*\n", done.stderr
    )
