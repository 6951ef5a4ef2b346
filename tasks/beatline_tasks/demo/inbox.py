"""An IMAP server in memory for machines without Dovecot: pymap, in a process of its own.

`python -m beatline_tasks.demo.inbox FILE` is that process; the file says who may come in, so that no command line does.
"""

from __future__ import annotations

import asyncio
import imaplib
import json
import os
import shutil
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from beatline.embedded import ports, service
from beatline.embedded.process import Command, LineSink, Process
from beatline.embedded.runfile import write_private
from beatline.embedded.service import StopStep
from beatline.errors import ServiceError

_HELLO_S: Final = 2.0


class Pymap:
    """A pymap that ends with this process, however that ends; the mail of its users goes with it."""

    name = kind = "pymap"
    ready_within_s = 30.0
    stop_steps: Sequence[StopStep] = (StopStep(signal.SIGTERM, 1.5),)

    def __init__(self, users: Sequence[str], *, password: str) -> None:
        self._users, self._password = tuple(users), password
        self._process: Process | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="beatline-pymap-"))
        self.host = ports.LOOPBACK
        self.port = 0

    @property
    def what(self) -> str:
        """Where it answers."""
        return f"imap://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process else None

    def start(self, on_line: LineSink | None = None) -> None:
        """Start it and wait until it answers. Raises ServiceError in one sentence, leaving nothing running."""
        self._process = service.start(self, on_line)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            service.stop([(self, self._process)])
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def spawn(self, on_line: LineSink | None = None) -> Process:
        """Start it without waiting for it."""
        if find_spec("pymap") is None:
            raise ServiceError(
                "There is no IMAP server to run: install beatline[demo], or Debian's package dovecot-imapd."
            )
        self.port = self.port or ports.free_port()
        given = self._folder / "given.json"
        write_private(given, json.dumps({"port": self.port, "users": self._users, "password": self._password}))
        # pymap greets with the machine's full name, and asks a name server for it at every connection.
        env = {**os.environ, "FQDN": "localhost"}
        argv = [sys.executable, "-m", "beatline_tasks.demo.inbox", str(given)]
        return Process(Command(argv=argv, env=env, death_signal="KILL", cwd=self._folder), on_line)

    def is_ready(self, process: Process) -> bool:
        """Whether it greets."""
        with suppress(OSError, imaplib.IMAP4.error):
            client = imaplib.IMAP4(self.host, self.port, _HELLO_S)
            client.logout()
            return process.exit_code() is None
        return False

    def why_it_ended(self, process: Process) -> str:
        """Its exit code and last words."""
        return f"pymap {service.how_it_ended(process)}"


async def serve(port: int, users: Sequence[str], password: str) -> None:
    """Serve until this process is ended."""
    from pymap.backend.dict import Config, DictBackend, Login
    from pymap.imap import IMAPService
    from pymap.user import UserMetadata
    from pysasl.hashing import Cleartext

    given = {"host": [ports.LOOPBACK], "port": port, "tls": False, "demo_data": False}
    unused = dict.fromkeys(
        ("cert", "key", "debug", "proxy_protocol", "passlib_cfg", "inherited_sockets", "demo_user", "demo_password")
    )
    # Its default hash takes a quarter of a second of processor time at every login.
    config = Config.from_args(Namespace(**given, **unused), hash_context=Cleartext())
    config.apply_context()
    login = Login(config)
    for user in users:
        login.users_dict[user] = UserMetadata(config, user, password=password)
    async with AsyncExitStack() as stack:
        await IMAPService(DictBackend(login, config), config).start(stack)
        await asyncio.Event().wait()


def main(file: str) -> None:
    """Serve whom a file names."""
    given = json.loads(Path(file).read_text(encoding="utf-8"))
    asyncio.run(serve(given["port"], given["users"], given["password"]))


if __name__ == "__main__":
    main(sys.argv[1])
