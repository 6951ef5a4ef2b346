"""A feed as collect meets them: pages, ETags, now and then a 429 or a 503, and every moment a little more to read."""

from __future__ import annotations

import json
import random
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from beatline.clock import monotonic_s, utc_now
from beatline_tasks.demo.feedlog import FeedLog, Served
from beatline_tasks.demo.weather import Day

PAGE_ROWS: Final = 25
HOLD_S: Final = 15.0
_TROUBLE: Final = ((0.04, HTTPStatus.TOO_MANY_REQUESTS, "1"), (0.08, HTTPStatus.SERVICE_UNAVAILABLE, None))
"""Of all requests: up to which share, which status, and what Retry-After says."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent."""

    status: HTTPStatus
    rows: Sequence[Day] = ()
    following: str | None = None
    etag: str | None = None
    retry_after: str | None = None

    @property
    def body(self) -> bytes:
        """The answer's JSON; a 304 has none."""
        if self.status == HTTPStatus.NOT_MODIFIED:
            return b""
        if self.status != HTTPStatus.OK:
            return json.dumps({"error": self.status.phrase}).encode()
        return json.dumps({"days": [day.as_json() for day in self.rows], "next": self.following}).encode()


def page_of(days: Sequence[Day], query: dict[str, list[str]], known_etag: str | None) -> Reply:
    """The page of these days that a query asks for: from `since` on, past `after`."""
    dates = [day.date for day in days]
    start = bisect_left(dates, date.fromisoformat(query["since"][0])) if "since" in query else 0
    if "after" in query:
        start = max(start, bisect_right(dates, date.fromisoformat(query["after"][0])))
    rows = days[start : start + PAGE_ROWS]
    following = f"/days?after={rows[-1].date}" if start + PAGE_ROWS < len(days) else None
    etag = f'"{rows[0].date}-{rows[-1].date}-{following is None}"' if rows else '"empty"'
    if etag == known_etag:
        return Reply(HTTPStatus.NOT_MODIFIED, following=following, etag=etag)
    return Reply(HTTPStatus.OK, rows, following, etag)


def trouble(seed: int, number: int) -> Reply | None:
    """The bad answer that request `number` gets, the same for the same seed; None for most."""
    drawn = random.Random(f"{seed}:{number}").random()  # noqa: S311  # a script, not a secret
    for share, status, retry_after in _TROUBLE:
        if drawn < share:
            return Reply(status, retry_after=retry_after)
    return None


class Feed:
    """Serves the days on loopback; all of them are out `grow_s` after the first request."""

    def __init__(self, days: Sequence[Day], log: FeedLog, *, grow_s: float, seed: int) -> None:
        self._days, self._log, self._grow_s, self._seed = days, log, grow_s, seed
        self._numbers = count(1)
        self._began_s: float | None = None
        self._wanted, self._held = threading.Event(), threading.Event()
        self._released, self._cut = threading.Event(), threading.Event()
        self._held_run = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="feed", daemon=True)

    def start(self) -> str:
        """Begin to serve; the address of the first page."""
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/days"

    def stop(self) -> None:
        """End at once; who waits for an answer gets none."""
        self._released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._log.close()

    def available(self) -> int:
        """How many days are out by now."""
        if self._began_s is None:
            return 0
        return min(len(self._days), 1 + int(len(self._days) * (monotonic_s() - self._began_s) / self._grow_s))

    def hold_one(self) -> None:
        """Let the next run that asks for its second page wait for it, until `cut_off`."""
        self._wanted.set()

    @property
    def held_run(self) -> str | None:
        """The run that waits in the middle of its pages; None while there is none."""
        return self._held_run if self._held.is_set() else None

    def cut_off(self) -> None:
        """Close its connection without an answer."""
        self._cut.set()
        self._released.set()

    def answer(self, path: str, run: str, known_etag: str | None) -> Reply | None:
        """What a request gets; None: nothing."""
        if self._began_s is None:
            self._began_s = monotonic_s()
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        if parts.path != "/days":
            return Reply(HTTPStatus.NOT_FOUND)
        if "after" in query and self._wanted.is_set() and not self._held.is_set():
            self._held_run = run
            self._held.set()
            self._released.wait(HOLD_S)
            if self._cut.is_set():
                return None
        return trouble(self._seed, next(self._numbers)) or page_of(self._days[: self.available()], query, known_etag)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        feed, log = self, self._log

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                run = self.headers.get("Beatline-Run", "")
                attempt = int(self.headers.get("Beatline-Attempt", "0"))
                reply = feed.answer(self.path, run, self.headers.get("If-None-Match"))
                status, rows, last = 0, 0, False
                if reply is None:
                    self.close_connection = True
                else:
                    with suppress(OSError):  # the client may be gone
                        self._send(reply)
                        status, rows, last = int(reply.status), len(reply.rows), reply.following is None
                log.append(Served(utc_now().timestamp(), run, attempt, self.path, status, rows, last))

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply.body)))
                if reply.etag:
                    self.send_header("ETag", reply.etag)
                if reply.retry_after:
                    self.send_header("Retry-After", reply.retry_after)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, format: str, *args: Any) -> None:
                """The feed has a log of its own."""

        return Handler
