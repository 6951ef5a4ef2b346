"""A Redis and a PostgreSQL of the tests' own: the embedded ones, without waiting for the disk."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import psutil
import pytest

from beatline.embedded.postgres import Postgres
from beatline.embedded.valkey import Valkey
from beatline.installation import connect_redis

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a folder of its own in it, that nobody else may enter
_ROOM_BYTES: Final = 6_000_000_000
_OURS: Final = "beatline-tests-"


class Server:
    """A server that a test may stop, kill and start again; its URL and its data stay."""

    def __init__(self, server: Valkey | Postgres, log: Path) -> None:
        self._server, self._log = server, log

    @property
    def url(self) -> str:
        """Where it answers; known once it was started."""
        return self._server.url

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._server.start(self._write)

    def _write(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def stop(self) -> None:
        """End it as an operator would."""
        self._server.stop()

    def kill(self) -> None:
        """End it with SIGKILL, as the kernel's OOM killer would."""
        if self._server.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
        self._server.stop()

    @contextmanager
    def frozen(self) -> Generator[None]:
        """As on a machine that stands still: it takes connections, and says nothing on any."""
        assert self._server.pid is not None
        first = psutil.Process(self._server.pid)
        first.suspend()  # before its children are counted: it starts no more
        still = [first, *first.children(recursive=True)]
        try:
            for process in still[1:]:
                process.suspend()
            yield
        finally:
            for process in still:
                process.resume()


def redis_server(folder: Path) -> Server:
    """A Redis with an append-only file; what it accepted survives its own death."""
    return Server(Valkey(folder, durable=False), folder.with_name(f"{folder.name}.log"))


def postgres_server(folder: Path) -> Server:
    """A PostgreSQL; what it committed survives its own death."""
    return Server(Postgres(folder, durable=False), folder.with_name(f"{folder.name}.log"))


@contextmanager
def folder_in_memory(otherwise: Path) -> Generator[Path]:
    """A folder in memory where there is plenty, else `otherwise`: each test copies a database, and that is 470 files."""
    if not _MEMORY.is_dir() or not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _ROOM_BYTES:
        yield otherwise
        return
    for left in _MEMORY.glob(f"{_OURS}*-*"):
        if not psutil.pid_exists(int(left.name.removeprefix(_OURS).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)  # its test run was killed
    folder = Path(tempfile.mkdtemp(prefix=f"{_OURS}{os.getpid()}-", dir=_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def freezer(url: str) -> Generator[Callable[[], None]]:
    """Freezes a Redis when it is called: it is there, accepts connections, and says nothing until the end."""
    with connect_redis(url) as client:
        pid = int(client.info("server")["process_id"])
    try:
        yield lambda: os.kill(pid, signal.SIGSTOP)
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def frozen(url: str) -> Generator[None]:
    """A Redis frozen in here."""
    with freezer(url) as freeze:
        freeze()
        yield


def unavailable(what: str, exc: Exception) -> NoReturn:
    """Skip on a laptop, fail in CI: a tier that silently did not run proves nothing."""
    sentence = f"{what} cannot be started: {exc}"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)
