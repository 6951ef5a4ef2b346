"""Case etl: fifty thousand rows out of another database and merged into a table, against a bare script.

Both sides read the same table of a second database by COPY and merge by INSERT … ON CONFLICT; half of the rows are
known and changed. The script is what one would write by hand with psycopg2, in a process that runs already, and does no
more. Ours is a job sent to a warm worker; time runs from the sending to the end of the run. Each side has a table of its
own, brought to the same state before each round.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import psycopg2

from beatline.app import create_app
from beatline.clock import monotonic_s
from beatline.definitions import specs, store
from beatline.families import kinds
from beatline.installation import Installation
from bench.cpu import Meter
from bench.machine import Machine
from bench.record import Record, Round, Sample
from support import databases
from support.processes import Spawned
from support.waiting import wait_until

ROWS: Final = 50_000
ROUNDS: Final = 3
MUST: Final = 1.3
MEMORY_MB: Final = 150.0
TESTS: Final = Path(__file__).resolve().parent.parent
END_S: Final = 60.0
COLUMNS: Final = ("id", "at", "name", "value", "note")
OURS: Final = "beatline_data.merged"
SCRIPTS: Final = "beatline_data.merged_by_script"

MAKE: Final = f"""
    CREATE TABLE lines AS SELECT CAST(n AS bigint) AS id, timestamptz '2026-01-01' + n * interval '1 second' AS at,
    'name ' || n AS name, round(n / 7.0, 2) AS value, repeat(md5(CAST(n AS text)), 2) AS note
    FROM generate_series(1, {ROWS}) n ORDER BY n % 1000, n;
    ALTER TABLE lines ADD PRIMARY KEY (id);
    ANALYZE lines
"""  # noqa: S608  # a number
TARGET: Final = """
    CREATE SCHEMA IF NOT EXISTS beatline_data;
    DROP TABLE IF EXISTS {table};
    CREATE TABLE {table} (id bigint PRIMARY KEY, at timestamptz, name text, value numeric, note text);
    INSERT INTO {table} SELECT n, '2025-01-01', 'old', 0, 'old' FROM generate_series(2, {rows}, 2) n;
    ANALYZE {table}
"""
GUARANTEES: Final = {
    "ours": "a run with lease, history and retry; a watermark if asked; contract and keys checked row by row; rejected "
    "rows kept; counts of new and changed; a repeated run adds nothing; one load of a target at a time",
    "baseline": "one transaction; the first bad row ends it",
}


def run(machine: Machine) -> Record:
    """Measure ours and the script in turn, the first side changing each round."""
    settings = machine.settings.replaced(allow_private_addresses=True)
    with databases.database(_plain(machine.settings.database_url)) as shop:
        _execute(shop, MAKE)
        _define(Installation(settings), shop)
        options = ("-Q", "etl", "-P", "prefork", "-c", "1", "--without-gossip", "--without-mingle")
        recorder = machine.spawner.spawn("beatline.cli", "recorder", settings=settings)
        argv = ("celery", "-A", "beatline", "worker", *options, "--loglevel", "INFO")
        worker = machine.spawner.spawn(*argv, settings=settings, env={"PYTHONPATH": str(TESTS)})
        worker.wait_for(r"\bready\b")
        app = create_app(settings)
        try:
            sides: list[Callable[[], Sample]] = [
                lambda: _ours(machine, app, worker),
                lambda: _script(_plain(machine.settings.database_url), shop),
            ]
            for side in sides:
                side()  # imports, caches, and pages of the tables
            rounds = [_round(machine, sides, worker, recorder, number) for number in range(ROUNDS)]
        finally:
            app.close()
            worker.stop()
            recorder.stop()
    return Record(
        case="etl",
        unit="s",
        must=MUST,
        at_most=True,
        limits={"worker_pss_mb": MEMORY_MB, "task_peak_rss_mb": MEMORY_MB},
        command="make bench CASE=etl",
        guarantees=GUARANTEES,
        rounds=rounds,
    )


def _round(
    machine: Machine, sides: list[Callable[[], Sample]], worker: Spawned, recorder: Spawned, number: int
) -> Round:
    meter = Meter({"worker": worker.pid, "recorder": recorder.pid, "script": os.getpid(), **machine.server_pids()})
    order = (0, 1) if number % 2 else (1, 0)
    measured = {which: sides[which]() for which in order}
    return Round(measured[0], measured[1], meter.others_share())


def _ours(machine: Machine, app: Any, worker: Spawned) -> Sample:
    _fresh(_plain(machine.settings.database_url), OURS)
    began_s = monotonic_s()
    run_id = str(app.send_task("etl.run_job", ("merge",), queue="etl").id)
    key = machine.settings.keys.run(run_id)
    wait_until(lambda: machine.redis.hget(key, "state") == "ended", END_S, what="the run has ended", every_s=0.002)
    took_s = monotonic_s() - began_s
    _check(_plain(machine.settings.database_url), OURS)
    return Sample(took_s, _memory(worker))


def _script(database: str, shop: str) -> Sample:
    _fresh(database, SCRIPTS)
    names = ", ".join(COLUMNS)
    sets = ", ".join(f"{name} = EXCLUDED.{name}" for name in COLUMNS[1:])
    began_s = monotonic_s()
    with (
        closing(psycopg2.connect(shop)) as source,
        closing(psycopg2.connect(database)) as target,
        TemporaryFile() as file,
    ):
        with source, source.cursor() as cursor:
            cursor.copy_expert(f"COPY (SELECT {names} FROM lines) TO STDOUT", file)  # noqa: S608
        file.seek(0)
        with target, target.cursor() as cursor:
            cursor.execute(f"CREATE TEMPORARY TABLE incoming (LIKE {SCRIPTS}) ON COMMIT DROP")
            cursor.copy_expert("COPY incoming FROM STDIN", file)
            cursor.execute(
                f"INSERT INTO {SCRIPTS} SELECT * FROM incoming ON CONFLICT (id) DO UPDATE SET {sets}"  # noqa: S608
            )
    return Sample(monotonic_s() - began_s, {})


def _fresh(database: str, table: str) -> None:
    _execute(database, TARGET.format(table=table, rows=ROWS))
    _execute(database, "CHECKPOINT")


def _check(database: str, table: str) -> None:
    """Raise unless the table holds what was to be merged into it."""
    with closing(psycopg2.connect(database)) as conn, conn.cursor() as cursor:
        cursor.execute(f"SELECT count(*), count(*) FILTER (WHERE note = 'old') FROM {table}")  # noqa: S608
        found = cursor.fetchone()
    if found != (ROWS, 0):
        raise RuntimeError(f"{table} has (rows, old rows) {found}")


def _execute(url: str, statements: str) -> None:
    with closing(psycopg2.connect(url)) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            for statement in statements.split(";"):
                cursor.execute(statement)


def _define(installation: Installation, shop: str) -> None:
    """The connection and the job, as `beatline … add` makes them."""
    parts = urlsplit(shop)
    connection = {"url": f"postgresql://{parts.hostname}:{parts.port}{parts.path}", "user": parts.username}
    if parts.password:
        connection["password"] = parts.password
    names = ", ".join(COLUMNS)
    job = {
        "input": {"connection": "shop", "query": f"SELECT {names} FROM lines"},  # noqa: S608
        "output": {"table": OURS.partition(".")[2], "mode": "upsert", "key": ["id"]},
    }
    for kind, name, spec in (("connection", "shop", connection), ("job", "merge", job)):
        checked = specs.check(kinds()[kind], name, spec)
        with installation.engine.begin() as conn:
            store.add(conn, kind, name, checked, lambda: installation.keyring, who="bench")


def _memory(worker: Spawned) -> dict[str, float]:
    """What the worker holds: all its processes, each shared page once; and the most that one of them held."""
    processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    shares: list[float] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            memory: Any = process.memory_full_info()
            shares.append(getattr(memory, "pss", memory.rss))
    return {"worker_pss_mb": sum(shares) / 2**20, "task_peak_rss_mb": max(map(_peak_mb, processes))}


def _peak_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return float(process.memory_info().rss) / 2**20
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _plain(url: str) -> str:
    """The URL as libpq reads it, without the driver's name."""
    return url.replace("postgresql+psycopg2:", "postgresql:", 1)
