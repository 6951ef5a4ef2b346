"""Sockets of this process reach loopback and nothing else."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any, Final, cast
from urllib.parse import urlsplit

import pytest

from support import environment

_UNROUTED: Final = ("localhost", "", None)


class ForbiddenConnectionError(Exception):
    """A test tried to leave this machine."""


def _allowed_hosts() -> set[str]:
    """Hosts of servers that were given, and this machine's own name."""
    given = (os.environ.get(environment.REDIS_URL), os.environ.get(environment.DATABASE_URL))
    return {host for url in given if url and (host := urlsplit(url).hostname)} | {socket.gethostname()}


def _is_local(host: object, allowed: set[str]) -> bool:
    if host in _UNROUTED or host in allowed:
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _is_address(host: object) -> bool:
    try:
        ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return True


def guard(patch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines, and let every foreign name be unknown."""
    allowed = _allowed_hosts()
    for host in tuple(allowed):
        try:
            allowed |= {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
        except OSError:
            continue
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(sock: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not _is_local(cast("Any", address)[0], allowed):
            sock.close()  # nobody else will: callers expect an OSError
            raise ForbiddenConnectionError(f"A test tried to connect to {address!r}; only loopback is allowed.")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        check(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        check(self, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not _is_address(name) and not _is_local(name, allowed):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known (tests resolve only local names)")
        return getaddrinfo(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
