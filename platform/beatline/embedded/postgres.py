"""Our own PostgreSQL: loopback only, passwords by SCRAM, UTF-8, ordered by code point, also where we are root."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg2

from beatline.embedded import folders, ports, postgres_folder, service
from beatline.embedded.binaries import PostgresBinaries, find_postgres
from beatline.embedded.folderlock import FolderLock
from beatline.embedded.identity import identity_for
from beatline.embedded.postgres_folder import SERVER_ENV, SUPERUSER
from beatline.embedded.process import Command, LineSink, Process
from beatline.embedded.service import StopStep
from beatline.errors import ServiceError

PORT_VARIABLE: Final = "BEATLINE_EMBEDDED_POSTGRES_PORT"
DATABASE: Final = "beatline"
PREDECESSOR_S: Final = 10.0

# Small, since one machine runs everything; no socket file, since its path may have 107 characters at most.
_OPTIONS: Final = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "huge_pages": "off",
    "jit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "512MB",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}
_SINCE_18: Final = {"io_method": "sync"}  # saves three processes
_NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_FAULT: Final = re.compile(r"(?:FATAL|PANIC):\s+(.*)")


class Postgres:
    """A PostgreSQL on a folder of its own; it ends with this process, however that ends.

    `durable=False` does not wait for the disk: for tests.
    """

    name = kind = "postgres"
    ready_within_s = 120.0  # after a crash it reads its log again first
    stop_steps: Sequence[StopStep] = (StopStep(signal.SIGINT, 1.5), StopStep(signal.SIGQUIT, 0.3))

    def __init__(self, folder: Path, port: int | None = None, *, durable: bool = True) -> None:
        self._folder = folder.absolute()
        self._configured = port
        self._durable = durable
        self._port = 0
        self._password = ""
        self._has_database = False
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where it answers, its password included; known once it was started."""
        # Neither a PGSSLMODE of the user's nor Kerberos, which crashes forked children on macOS, has a say here.
        return (
            f"postgresql://{SUPERUSER}:{self._password}@{ports.LOOPBACK}:{self._port}/{DATABASE}"
            "?sslmode=disable&gssencmode=disable"
        )

    @property
    def what(self) -> str:
        """Where it answers, for people: without the password."""
        return f"postgresql://{ports.LOOPBACK}:{self._port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        """Its process id, while it was started by start()."""
        return self._process.pid if self._process else None

    def start(self, on_line: LineSink | None = None) -> None:
        """Start it and wait until it answers. Raises ServiceError in one sentence, leaving nothing running."""
        self._process = service.start(self, on_line)

    def stop(self) -> None:
        """End it; everything it committed is in its folder."""
        if self._process is not None:
            service.stop([(self, self._process)])
            self._process = None

    def spawn(self, on_line: LineSink | None = None) -> Process:
        """Start it without waiting for it; the first time its data folder is made, which takes seconds."""
        binaries = find_postgres()
        lock = FolderLock(self._folder / "lock")
        with folders.explained(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = lock.acquire(PREDECESSOR_S)
        if not held:
            raise ServiceError(
                f"Another PostgreSQL still runs on {self._folder}: end the program that started it, then try again."
            )
        try:
            identity = identity_for(self._folder, str(binaries.initdb))
            with folders.explained(self._folder):
                self._port = ports.remembered(
                    self._folder / "port", "PostgreSQL", PORT_VARIABLE, self._configured or self._port
                )
                data = postgres_folder.ready(self._folder, binaries, identity, durable=self._durable)
                self._password = postgres_folder.password(self._folder)
            argv = [str(binaries.postgres), "-D", str(data), *self._options(binaries)]
            command = Command(
                argv=argv, env=SERVER_ENV, death_signal="INT", identity=identity, inherit=(lock.fd,), cwd=self._folder
            )
            return Process(command, on_line)
        finally:
            lock.release()  # the server and its children have inherited it

    def is_ready(self, process: Process) -> bool:
        """Whether it accepts our password, and the database is there."""
        try:
            with closing(self._connect("postgres")) as connection, connection.cursor() as cursor:
                if not self._has_database:
                    connection.autocommit = True
                    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                    if cursor.fetchone() is None:
                        cursor.execute(f"CREATE DATABASE {DATABASE}")
                    self._has_database = True
        except psycopg2.Error as exc:
            if "password authentication failed" in str(exc):
                raise ServiceError(
                    f"PostgreSQL does not accept the password in {self._folder / 'password'}: that file and the data "
                    "folder beside it belong together, put both back from the same backup."
                ) from exc
            return False
        return process.exit_code() is None

    def why_it_ended(self, process: Process) -> str:
        """What its last lines mean."""
        said = "\n".join(process.last_lines())
        if "Address already in use" in said:
            return str(ports.taken("PostgreSQL", PORT_VARIABLE, self._port))
        if "No space left on device" in said:
            return (
                f"PostgreSQL ended because the disk that holds {self._folder} is full: free some space, then try again."
            )
        code = process.exit_code()
        if code is not None and code < 0:
            return f"PostgreSQL {service.how_it_ended(process)}"
        faults = [found[1] for found in _FAULT.finditer(said)]
        reason = faults[-1] if faults else service.last_words(process)
        return (
            f"PostgreSQL cannot run on its data in {self._folder / 'data'} (exit code {code}: {reason}); "
            "nothing was changed: put a backup in its place, or move the folder away to begin with an empty one."
        )

    def _connect(self, database: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=ports.LOOPBACK,
            port=self._port,
            user=SUPERUSER,
            password=self._password,
            dbname=database,
            sslmode="disable",
            gssencmode="disable",
            connect_timeout=2,
        )

    def _options(self, binaries: PostgresBinaries) -> list[str]:
        options = dict(_OPTIONS, port=str(self._port))
        if binaries.version >= (18,):
            options |= _SINCE_18
        if not self._durable:
            options |= _NOT_DURABLE
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
