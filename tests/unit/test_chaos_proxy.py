"""The proxy of `make chaos` does what rows 4 and 8 need: replies that do not arrive, connections that are half-open."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from chaos.proxy import Proxy
from support.waiting import wait_until


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def proxy(heard: list[bytes]) -> Iterator[Proxy]:
    """A proxy before a server that answers each word with the same word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, heard), daemon=True).start()
        proxy = Proxy(f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}/0")
        yield proxy
        proxy.close()
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, heard: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection, heard), daemon=True).start()


def _echo(connection: socket.socket, heard: list[bytes]) -> None:
    with connection, suppress(ConnectionResetError):
        while said := connection.recv(100):
            heard.append(said)
            connection.sendall(said)


def _connect(proxy: Proxy) -> socket.socket:
    port = int(proxy.url.rpartition(":")[2].partition("/")[0])
    return socket.create_connection(("127.0.0.1", port), 5.0)


def _ask(connection: socket.socket, word: bytes, timeout_s: float = 5.0) -> bytes:
    connection.settimeout(timeout_s)
    connection.sendall(word)
    return connection.recv(100)


def test_its_url_is_the_servers_with_another_port(proxy: Proxy) -> None:
    assert proxy.url.startswith("redis://:secret@127.0.0.1:")
    assert proxy.url.endswith("/0")


def test_it_passes_on_what_both_say(proxy: Proxy) -> None:
    with _connect(proxy) as connection:
        assert _ask(connection, b"hello") == b"hello"


def test_a_reply_is_dropped_after_the_server_has_heard_and_then_the_connection_is_reset(
    proxy: Proxy, heard: list[bytes]
) -> None:
    with _connect(proxy) as connection:
        assert _ask(connection, b"first") == b"first"
        proxy.drop_replies()
        with pytest.raises(TimeoutError):
            _ask(connection, b"second", 0.2)
        wait_until(lambda: b"second" in heard)
        proxy.resume(reset=True)
        connection.settimeout(5.0)
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    with _connect(proxy) as connection:
        assert _ask(connection, b"third") == b"third"


def test_what_stalled_is_half_open_for_ever_and_what_comes_later_works(proxy: Proxy, heard: list[bytes]) -> None:
    with _connect(proxy) as old:
        assert _ask(old, b"first") == b"first"
        proxy.stall()
        with pytest.raises(TimeoutError):
            _ask(old, b"lost", 0.2)
        proxy.resume()
        with pytest.raises(TimeoutError):
            _ask(old, b"lost", 0.2)
        with _connect(proxy) as new:
            assert _ask(new, b"new") == b"new"
    assert b"lost" not in heard
