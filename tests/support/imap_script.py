"""An IMAP server that says what a test tells it to: refusals, throttling and nonsense that no real one says on demand."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        says: Mapping[str, str] = server.says
        self._say(says.get("GREETING", "* OK ready"))
        for raw in self.rfile:
            tag, _, rest = raw.decode("utf-8", "replace").strip().partition(" ")
            command = rest.partition(" ")[0].upper()
            if command == "UID":
                command = " ".join(rest.split()[:2]).upper()
            server.heard.append(command)
            default = "* CAPABILITY IMAP4rev1\r\n{tag} OK done" if command == "CAPABILITY" else "{tag} OK done"
            answer = says.get(command, default)
            if answer == "hang up":
                return
            self._say(answer.replace("{tag}", tag))

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class ScriptedImap(socketserver.ThreadingTCPServer):
    """Answers each command as `says` has it; `heard` is what it was asked."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, says: Mapping[str, str]) -> None:
        self.says = dict(says)
        self.heard: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the test's."""


@contextmanager
def scripted_imap(says: Mapping[str, str]) -> Generator[ScriptedImap]:
    """Run one for a test."""
    with ScriptedImap(says) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
