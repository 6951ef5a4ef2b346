"""The HTTP protocol of the admin API: who holds a connection has to ask for something.

uvicorn counts connections against its limit, and waits for the first request of each without end: some hundred that say
nothing would keep everybody out.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WITHIN_S: Final = 10.0


class Heads(H11Protocol):
    """Closes a connection on which no request's head, the first or a later one, is complete within `head_within_s`.

    The time begins with the connection, and anew when a request has been answered.
    """

    head_within_s = HEAD_WITHIN_S
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        # Not while the rest of a body trickles in whose request is answered already.
        if self.cycle is not None and not self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison]  # uvicorn sets None first
            self._wait_no_more()

    def on_response_complete(self) -> None:
        # Before uvicorn goes on to the next request, whose head may have come already.
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self._wait_no_more()
        self._waiting = self.loop.call_later(self.head_within_s, self._give_up)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self.transport.is_closing():
            self.transport.abort()  # what was to be written still is not read
        else:
            self.transport.close()
