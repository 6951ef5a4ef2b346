"""An idle API answers for its health, and loads the rest when it is asked for the rest, once."""

from __future__ import annotations

import asyncio
from typing import Any

from beatline.api.serve import Lazily


async def _ask(app: Any, path: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "path": path, "method": "GET", "headers": []}, receive, send)
    return sent


async def _whole(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b"whole"})


def test_the_app_is_made_at_the_first_request_that_needs_it_and_once() -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return _whole

    async def use() -> None:
        app = Lazily(make)
        start, body = await _ask(app, "/healthz")
        assert (start["status"], body["body"], made) == (200, b'{"status":"ok"}', [])
        answers = await asyncio.gather(*(_ask(app, "/admin/celery/tasks") for _ in range(5)))
        assert [answer[0]["status"] for answer in answers] == [418] * 5
        assert made == [1]
        assert (await _ask(app, "/healthz"))[0]["status"] == 418  # the app's own from now on

    asyncio.run(use())
