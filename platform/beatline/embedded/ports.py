"""Loopback ports: a configured one or none, else the one of last time, else a free one."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from beatline.embedded.runfile import write_private
from beatline.errors import ServiceError

LOOPBACK: Final = "127.0.0.1"


def remembered(memory: Path, service: str, variable: str, fixed: int | None) -> int:
    """The port to listen on, kept in a file for next time. Raises ServiceError if the fixed one is taken.

    A port is fixed if it is configured, or if others were told of it already.
    """
    if fixed:
        if not is_free(fixed):
            raise taken(service, variable, fixed)
        port = fixed
    else:
        last = memory.read_text(encoding="ascii").strip() if memory.exists() else ""
        port = int(last) if last.isdecimal() and 0 < int(last) < 65536 and is_free(int(last)) else free_port()
    write_private(memory, f"{port}\n")
    return port


def taken(service: str, variable: str, port: int) -> ServiceError:
    """What to say of a configured port that another program has."""
    return ServiceError(
        f"Port {port} for {service} is taken by another program: end it, or set {variable} to another port, "
        "or leave it unset and a free one is chosen."
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a server that has just ended linger, and are no reason to move away.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
