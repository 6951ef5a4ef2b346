"""A connection without a request is closed, whatever it dribbles; one with a request is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from beatline.api.heads import HEAD_WITHIN_S, Heads
from beatline.clock import monotonic_s

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
REQUEST = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
SHORT_S = 0.4


class _Hasty(Heads):
    head_within_s = SHORT_S


async def _app(scope: Any, _receive: Any, send: Any) -> None:
    await asyncio.sleep(3 * SHORT_S if scope["path"] == "/slow" else 0)
    status = 413 if scope["path"] == "/large" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _served(use: Callable[[Streams], Awaitable[None]]) -> None:
    config, state = (
        uvicorn.Config(_app, ws="none", lifespan="off", log_config=None, timeout_keep_alive=60),
        ServerState(),
    )
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Hasty(config, state, {}), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            await asyncio.wait_for(use((reader, writer)), 20)
        finally:
            writer.close()
        while state.connections:  # none is left over
            await asyncio.sleep(0.01)


async def _closed_while(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dribble: bytes) -> None:
    """Until the server closes the connection, send a byte now and then."""
    begun_s = monotonic_s()
    for byte in [*dribble, *[None] * 99]:
        try:
            if byte is not None:
                writer.write(bytes([byte]))
            assert await asyncio.wait_for(reader.read(1), SHORT_S / 4) == b""
        except TimeoutError:
            continue
        except ConnectionResetError:
            pass
        break
    assert SHORT_S * 0.9 < monotonic_s() - begun_s < SHORT_S * 10


@pytest.mark.parametrize("dribble", [b"", REQUEST[:-2], b"x" * 90], ids=["silent", "begun", "endless"])
def test_who_asks_for_nothing_is_sent_away(dribble: bytes) -> None:
    async def use(streams: Streams) -> None:
        await _closed_while(*streams, dribble)

    asyncio.run(_served(use))


@pytest.mark.parametrize("dribble", [b"", REQUEST[:-2]], ids=["silent", "begun"])
def test_so_is_who_asks_once(dribble: bytes) -> None:
    async def use(streams: Streams) -> None:
        reader, writer = streams
        writer.write(REQUEST)
        assert await reader.readuntil(b"ok")
        await _closed_while(reader, writer, dribble)

    asyncio.run(_served(use))


def test_so_is_who_goes_on_with_a_body_that_was_refused() -> None:
    async def use(streams: Streams) -> None:
        reader, writer = streams
        writer.write(b"POST /large HTTP/1.1\r\nhost: h\r\ncontent-length: 9999\r\n\r\n")
        assert await reader.readuntil(b"ok")
        await _closed_while(reader, writer, b"x" * 90)

    asyncio.run(_served(use))


def test_an_answer_may_take_its_time_and_requests_may_follow_at_once() -> None:
    async def use(streams: Streams) -> None:
        reader, writer = streams
        slow = REQUEST.replace(b"/ ", b"/slow ", 1)
        writer.write(slow + REQUEST + slow)  # pipelined
        for _ in range(3):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")

    asyncio.run(_served(use))


def test_the_api_waits_ten_seconds() -> None:
    assert (Heads.head_within_s, HEAD_WITHIN_S) == (10.0, 10.0)
