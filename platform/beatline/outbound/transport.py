"""Connections that reach only allowed addresses and end in time, as a transport of httpx.

The socket is opened to the very address that was checked; TLS still asks for the host's name. httpx bounds each read;
here the whole request is bounded, headers and handshake included: the threads of a pool cannot be interrupted.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from functools import cache
from typing import Any

import httpcore
import httpx

from beatline.clock import monotonic_s
from beatline.outbound.guard import resolve

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


def words_of(exc: Exception) -> str:
    """What an error of the network says, without the system's number for it; what kind it is, if it says nothing."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(exc)).rstrip(".") or type(exc).__name__


class Deadline:
    """When the request under way must have ended; set anew for each."""

    def __init__(self) -> None:
        self._ends_s = 0.0

    def set(self, ends_s: float) -> None:
        """End the request at this monotonic time."""
        self._ends_s = ends_s

    def left_s(self, limit_s: float | None) -> float:
        """What a step may take at most. Raises httpcore.ReadTimeout when nothing is left."""
        left_s = self._ends_s - monotonic_s()
        if left_s <= 0:
            raise httpcore.ReadTimeout("the time for one page is over")
        return left_s if limit_s is None else min(left_s, limit_s)


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose every step ends before the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s(timeout))
        return _BoundedStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _GuardedBackend(httpcore.SyncBackend):
    def __init__(self, deadline: Deadline, *, allow_private: bool) -> None:
        self._deadline, self._allow_private = deadline, allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        options = list(socket_options or ())
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in resolve(host, port, allow_private=self._allow_private):
            try:
                stream = super().connect_tcp(address, port, self._deadline.left_s(timeout), local_address, options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failed = exc
            else:
                return _BoundedStream(stream, self._deadline)
        raise failed


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # honours SSL_CERT_FILE: certificates of an organisation's own


class GuardedTransport(httpx.HTTPTransport):
    """httpx's transport over guarded connections; proxies of the environment are not used, they would go around it."""

    def __init__(self, deadline: Deadline, *, allow_private: bool) -> None:
        super().__init__(verify=_tls())
        self._pool = httpcore.ConnectionPool(
            ssl_context=_tls(),
            max_connections=2,
            network_backend=_GuardedBackend(deadline, allow_private=allow_private),
        )
