"""The delay proxy adds what it says and loses nothing, since a benchmark's figure stands on it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from beatline.clock import monotonic_s
from support.delay import far_away


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(5)


def test_an_answer_comes_a_round_trip_later_and_whole(echo: int) -> None:
    sent = bytes(range(256)) * 4096
    with far_away(echo, 0.2) as port, socket.create_connection(("127.0.0.1", port), 10) as client:
        began_s = monotonic_s()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert 0.2 <= monotonic_s() - began_s < 2.0
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        got = b""
        while len(got) < len(sent):
            got += client.recv(65_536)
        assert got == sent


def test_a_closed_connection_is_closed_at_the_other_end(echo: int) -> None:
    with far_away(echo, 0.02) as port, socket.create_connection(("127.0.0.1", port), 10) as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
