"""A TCP proxy on loopback that makes a server far away: half a round trip is added to every byte, each way.

It is a process of its own, so that the delay costs neither side of a measurement a thread or the GIL.
`python -m support.delay PORT ROUND_TRIP_S` forwards to PORT and prints the port it listens on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from beatline.embedded.process import Command, Process

_TESTS: Final = Path(__file__).resolve().parent.parent
_READY_S: Final = 20.0
_CHUNK: Final = 64 * 1024


@contextmanager
def far_away(port: int, round_trip_s: float) -> Generator[int]:
    """The port at which a loopback server is that far away. Only from the main thread; it ends with this process."""
    told = threading.Event()
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        told.set()

    argv = [sys.executable, "-m", "support.delay", str(port), str(round_trip_s)]
    env = {**os.environ, "PYTHONPATH": str(_TESTS)}
    process = Process(Command(argv=argv, env=env, death_signal="KILL"), hear)
    try:
        if not told.wait(_READY_S) or not lines[0].isdecimal():
            raise RuntimeError(f"the delay proxy did not start: {lines}")
        yield int(lines[0])
    finally:
        process.stop(signal.SIGTERM, 2.0)
        process.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Pass on what comes, each piece after the delay and in order; then the end."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def read() -> None:
        data = b"?"
        while data:
            data = await reader.read(_CHUNK)
            waiting.put_nowait((loop.time() + delay_s, data))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await reading
        writer.close()


async def _serve(port: int, round_trip_s: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            pumps = (_pump(reader, far_writer, round_trip_s / 2), _pump(far_reader, writer, round_trip_s / 2))
            await asyncio.gather(*pumps, return_exceptions=True)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
