"""Runs one trial of a row: servers that are left from the one before, everything else new, and all of it ended."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import psycopg2
from redis.exceptions import RedisError

from beatline.ledger.database import open_engine, upgrade
from beatline.settings import Settings
from chaos.checker import Verdict, check
from chaos.journal import Journal
from chaos.proxy import Proxy
from chaos.row import Row
from chaos.sides import Ours, Side, Stock
from chaos.stage import Stage
from support import databases
from support.keys import connect
from support.processes import Spawner
from support.servers import Server, postgres_server, redis_server


@dataclass(frozen=True, slots=True)
class Machine:
    """A Redis and a PostgreSQL of the trials' own, and a migrated database to copy."""

    folder: Path
    redis: Server
    postgres: Server
    template: str

    def ready(self) -> None:
        """Start again what a trial that broke off has left dead."""
        for server, answers in ((self.redis, _redis_answers), (self.postgres, _postgres_answers)):
            if not answers(server.url):
                server.kill()
                server.start()


def _redis_answers(url: str) -> bool:
    with connect(url) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


def _postgres_answers(url: str) -> bool:
    try:
        psycopg2.connect(url).close()
    except psycopg2.Error:
        return False
    return True


@contextmanager
def machine() -> Generator[Machine]:
    """Start the servers in a folder that goes away with them."""
    with (
        tempfile.TemporaryDirectory(prefix="beatline-chaos-", ignore_cleanup_errors=True) as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        redis, postgres = redis_server(folder / "redis"), postgres_server(folder / "postgres")
        for server in (redis, postgres):
            stack.callback(server.kill)
            server.start()
        url = stack.enter_context(databases.database(postgres.url))
        settings = Settings.load(redis_url=redis.url, database_url=url, home=folder / "template")
        upgrade(settings)
        open_engine(settings).dispose()
        yield Machine(folder, redis, postgres, databases.name_of(url))


def run(machine: Machine, row: Row, seed: int, *, ours: bool, full: bool = False) -> Verdict:
    """Put one system through a row with a seed, and judge what came of it."""
    name = f"r{row.number}s{seed}{'' if ours else 'c'}{'full' if full else ''}"
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=machine.folder))
    journal = Journal(folder / "journal")
    journal.make()
    machine.ready()
    with ExitStack() as stack:
        client: Any = stack.enter_context(connect(machine.redis.url))
        client.flushall()
        spawner = Spawner(folder)
        proxy = Proxy(machine.redis.url) if row.proxied else None
        if proxy is not None:
            stack.callback(proxy.close)
        side = _side(stack, machine, spawner, folder, proxy, row, ours=ours, full=full)
        stack.callback(spawner.end)
        stage = Stage(
            name=name, side=side, rng=Random(seed), journal=journal, redis=machine.redis, postgres=machine.postgres,
            redis_folder=machine.folder / "redis", client=client, spawner=spawner, proxy=proxy, full=full,
        )  # fmt: skip
        side.start()
        row.act(stage)
        verdict = check(stage.history(final=True), row.limits)
        if ours and stage.ended:
            said = f"I4 {stage.ended} workers ended by themselves"
            verdict = replace(verdict, violations=(*verdict.violations, said))
        if ours and verdict.violations:
            _keep_evidence(name, folder, verdict)
    return verdict


def _side(
    stack: ExitStack,
    machine: Machine,
    spawner: Spawner,
    folder: Path,
    proxy: Proxy | None,
    row: Row,
    *,
    ours: bool,
    full: bool,
) -> Side:
    url = proxy.url if proxy is not None else machine.redis.url
    side: Side
    if ours:
        database = stack.enter_context(databases.database(machine.postgres.url, template=machine.template))
        side = Ours(spawner, folder, machine.redis.url, database, url, lease_s=row.lease_s, full=full)
    else:
        side = Stock(spawner, folder, machine.redis.url, url)
    stack.callback(side.close)
    return side


def _keep_evidence(name: str, folder: Path, verdict: Verdict) -> None:
    """Leave journal and logs of a trial that failed where they can be read."""
    kept = Path(tempfile.mkdtemp(prefix=f"beatline-chaos-failed-{name}-"))
    for path in (*sorted(folder.glob("*.log")), folder / "journal" / "log"):
        (kept / path.name).write_bytes(path.read_bytes())
    for violation in verdict.violations:
        sys.stderr.write(f"      {violation}\n")
    sys.stderr.write(f"      journal and logs: {kept}\n")
