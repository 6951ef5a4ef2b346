"""The servers and processes of a measurement: our own Valkey and PostgreSQL, durable as in production."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beatline.embedded.postgres import Postgres
from beatline.embedded.valkey import Valkey
from beatline.ledger.database import open_engine, upgrade
from beatline.settings import Settings
from support.keys import connect
from support.processes import Spawner


@dataclass(frozen=True, slots=True)
class Machine:
    """Running servers, an installation on them, and a spawner of processes."""

    valkey: Valkey
    postgres: Postgres
    settings: Settings
    spawner: Spawner
    redis: Any

    def server_pids(self) -> dict[str, int]:
        """The servers' process ids by name."""
        pids = {"redis": self.valkey.pid, "postgres": self.postgres.pid}
        return {name: pid for name, pid in pids.items() if pid is not None}


@contextmanager
def machine(folder: Path) -> Generator[Machine]:
    """Start everything on a folder, and end everything."""
    valkey, postgres = Valkey(folder / "valkey"), Postgres(folder / "postgres")
    processes = folder / "processes"
    processes.mkdir()
    spawner = Spawner(processes)
    try:
        valkey.start()
        postgres.start()
        settings = Settings.load(
            redis_url=valkey.url,
            database_url=postgres.url,
            home=folder / "home",
            secret_keys=f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}",
            task_modules=("bench.tasks",),
            log_level="WARNING",
        )
        upgrade(settings)
        with connect(valkey.url) as client:
            yield Machine(valkey, postgres, settings, spawner, client)
        open_engine(settings).dispose()
    finally:
        spawner.end()
        postgres.stop()
        valkey.stop()
