"""An IMAP server that says what a test tells it to: refusals, throttling and nonsense that no real one says on demand."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from typing import Any

HANG_UP = "hang up"
Said = str | Callable[[str], str]
"""An answer, or what makes one of a command's arguments. `{tag}` in it is the command's; HANG_UP says nothing more."""


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        says: Mapping[str, Said] = server.says
        self._say(str(says.get("GREETING", "* OK ready")))
        for raw in self.rfile:
            tag, _, rest = raw.decode("utf-8", "replace").strip().partition(" ")
            command = rest.partition(" ")[0].upper()
            if command == "UID":
                command = " ".join(rest.split()[:2]).upper()
            server.heard.append(command)
            default = "* CAPABILITY IMAP4rev1\r\n{tag} OK done" if command == "CAPABILITY" else "{tag} OK done"
            said = says.get(command, default)
            answer = said if isinstance(said, str) else said(rest)
            if answer == HANG_UP:
                return
            self._say(answer.replace("{tag}", tag))

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class ScriptedImap(socketserver.ThreadingTCPServer):
    """Answers each command as `says` has it; `heard` is what it was asked."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, says: Mapping[str, Said]) -> None:
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
def scripted_imap(says: Mapping[str, Said]) -> Generator[ScriptedImap]:
    """Run one for a test."""
    with ScriptedImap(says) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def holding(
    mails: Mapping[int, bytes],
    *,
    refused: Collection[int] = (),
    headless: Collection[int] = (),
    fatal: Collection[int] = (),
    sizes: Mapping[int, int] | None = None,
) -> dict[str, Said]:
    """What a server says whose folders hold these messages, by UID.

    Bodies of the `refused` it does not hand out, headers of the `headless` neither; over bodies of the `fatal` it hangs
    up. Of `sizes` it tells these. Change the collections, and it says something else.
    """

    def fetch(arguments: str) -> str:
        _, _, asked, what = arguments.split(" ", 3)
        lines: list[str] = []
        for uid in (uid for uid in sorted(mails) if _among(uid, asked)):
            raw, head = mails[uid].decode(), "HEADER]" in what
            if "BODY" not in what:
                size = (sizes or {}).get(uid, len(raw))
                lines.append(f'* {uid} FETCH (UID {uid} RFC822.SIZE {size} INTERNALDATE "01-Feb-2026 00:00:00 +0000")')
                continue
            if not head and uid in fatal:
                return HANG_UP
            if uid in (headless if head else refused):
                return "\r\n".join([*lines, "{tag} NO [CANNOT] the message cannot be converted"])
            sent = raw.partition("\r\n\r\n")[0] + "\r\n\r\n" if head else raw
            lines.append(f"* {uid} FETCH (UID {uid} BODY[{'HEADER' if head else ''}] {{{len(sent)}}}\r\n{sent})")
        return "\r\n".join([*lines, "{tag} OK done"])

    opened = f"* {len(mails)} EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT {max(mails) + 1}] x\r\n"
    return {"EXAMINE": opened + "{tag} OK [READ-ONLY] done", "UID FETCH": fetch}


def _among(uid: int, asked: str) -> bool:
    ranges = re.findall(r"(\d+)(?::(\d+))?", asked)
    return any(int(first) <= uid <= int(last or first) for first, last in ranges)
