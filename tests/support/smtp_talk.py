"""A mail server that hangs up where real ones do, and that offers only what a test says."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Generator
from contextlib import contextmanager


class Talk(socketserver.ThreadingTCPServer):
    """A server that hangs up as a test says: after a refusal, after each mail, or at a recipient."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, hello: str) -> None:
        self.hello, self.url = hello, ""
        self.refuses, self.drops = frozenset[str](), frozenset[str]()
        self.one_each = False
        self.lines: list[str] = []
        self.mails: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Talking)
        self.url = f"smtp://127.0.0.1:{self.server_address[1]}"


class _Talking(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        talk = self.server
        assert isinstance(talk, Talk)
        self._say("220 x")
        to = ""
        for raw in self.rfile:
            line = raw.decode().strip()
            talk.lines.append(line)
            verb = line[:4].upper()
            if verb == "RCPT":
                to = line.partition("<")[2].rstrip(">")
                if to in talk.drops:
                    return
            if verb == "QUIT":
                self._say("221 bye")
                return
            if verb == "DATA":
                if not self._data(talk, to):
                    return
            else:
                self._say(talk.hello if verb == "EHLO" else "250 ok")

    def _data(self, talk: Talk, to: str) -> bool:
        self._say("354 go")
        mail = b"".join(iter(self.rfile.readline, b".\r\n"))
        if to in talk.refuses:
            self._say("554 5.7.1 rejected")
            return False
        talk.mails.append(mail)
        self._say("250 taken")
        return not talk.one_each

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


@contextmanager
def talking(hello: str = "250 x") -> Generator[Talk]:
    """Serve until the context is left; `hello` is the answer to EHLO."""
    with Talk(hello) as talk:
        thread = threading.Thread(target=talk.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield talk
        finally:
            talk.shutdown()
            thread.join()
