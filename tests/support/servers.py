"""A Redis and a PostgreSQL of the tests' own: the embedded ones, without waiting for the disk."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from beatline.embedded.postgres import Postgres
from beatline.embedded.valkey import Valkey


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


def redis_server(folder: Path) -> Server:
    """A Redis with an append-only file; what it accepted survives its own death."""
    return Server(Valkey(folder, durable=False), folder.with_name(f"{folder.name}.log"))


def postgres_server(folder: Path) -> Server:
    """A PostgreSQL; what it committed survives its own death."""
    return Server(Postgres(folder, durable=False), folder.with_name(f"{folder.name}.log"))


def unavailable(what: str, exc: Exception) -> NoReturn:
    """Skip on a laptop, fail in CI: a tier that silently did not run proves nothing."""
    sentence = f"{what} cannot be started: {exc}"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)
