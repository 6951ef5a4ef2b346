"""A TCP proxy before Redis that loses replies, stands still, or breaks off: the network as it is on a bad day."""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

Mode = Literal["pass", "drop_replies", "stall"]
CHUNK: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class _Pair:
    """A client's connection and ours to the server. One that was stalled once never moves again: it is half-open."""

    client: socket.socket
    server: socket.socket
    dead: bool = False

    def close(self, *, reset: bool = False) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


class Proxy:
    """Listens on a port of its own for one Redis URL; `url` is the same server through it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
        self._mode: Mode = "pass"
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="chaos-proxy", daemon=True)
        self._thread.start()

    def drop_replies(self) -> None:
        """From now on what the server says does not arrive."""
        self._mode = "drop_replies"

    def stall(self) -> None:
        """From now on nothing arrives; the connections there are stay open, and dead for ever."""
        with self._lock:
            self._mode = "stall"
            for pair in self._pairs:
                pair.dead = True

    def resume(self, *, reset: bool = False) -> None:
        """New connections work again; `reset` ends those there are with RST."""
        with self._lock:
            self._mode = "pass"
            if reset:
                for pair in self._pairs:
                    pair.close(reset=True)
                self._pairs.clear()

    def close(self) -> None:
        """End every connection, and listen no more."""
        self._closing = True
        self._thread.join(5.0)
        self._listener.close()
        for pair in self._pairs:
            pair.close()

    def _run(self) -> None:
        while not self._closing:
            with self._lock:
                ends = {end: pair for pair in self._pairs if not pair.dead for end in (pair.client, pair.server)}
            try:
                ready, _, _ = select.select([self._listener, *ends], [], [], 0.02)
            except (OSError, ValueError):
                continue  # one was closed meanwhile
            with self._lock:
                for end in ready:
                    if end is self._listener:
                        self._accept()
                    elif ends[end] in self._pairs and not ends[end].dead:
                        self._move(end, ends[end])

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._target, 1.0)
        except OSError:
            client.close()
            return
        self._pairs.append(_Pair(client, server, dead=self._mode == "stall"))

    def _move(self, end: socket.socket, pair: _Pair) -> None:
        to_client = end is pair.server
        try:
            said = end.recv(CHUNK)
            if said and not (to_client and self._mode == "drop_replies"):
                (pair.client if to_client else pair.server).sendall(said)
        except (OSError, ValueError):
            said = b""
        if not said and pair in self._pairs:
            self._pairs.remove(pair)
            pair.close()
