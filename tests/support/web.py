"""A real HTTP server on loopback that answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: header names in lower case."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    method: str = "GET"
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. Headers given here come beside Content-Length, unless `whole` is false: then only they come."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    whole: bool = True
    drip_s: float = 0
    """Pause between two bytes of the body."""


Answering = Callable[[Asked], Reply]


@dataclass(slots=True)
class Web:
    """A server, and what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list[Asked])
    answer: Answering = lambda _: Reply(status=404)


@contextmanager
def serve(host: str = "127.0.0.1") -> Generator[Web]:
    """Serve until the context is left; set `answer` to say how."""
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length") or 0))
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            asked = Asked(parts.path, query, headers, self.command, body)
            web.asked.append(asked)
            # A client that has had enough closes the connection: that is its right.
            with suppress(ConnectionError):
                self._send(web.answer(asked))

        do_POST = do_HEAD = do_GET

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.whole:
                self.send_header("Content-Length", str(len(reply.body)))
            else:
                self.close_connection = True
            self.end_headers()
            if self.command == "HEAD":
                return
            if not reply.drip_s:
                self.wfile.write(reply.body)
                return
            for byte in reply.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if stopping.wait(reply.drip_s):
                    return

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    web = Web(f"http://{host}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
