"""What a request may look like before a route sees it: small, JSON, complete within seconds, and without NUL."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beatline.api.problems import problem

BODY_LIMIT_BYTES: Final = 256 * 1024
"""As much as a task's message may have."""
BODY_WITHIN_S: Final = 10.0
_WITHOUT_BODY: Final = ("GET", "HEAD", "OPTIONS")


class Intake:
    """Wraps an ASGI app; bodies are read here, whole, up to the limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\x00" in scope["path"] or b"%00" in scope.get("query_string", b"") or b"\x00" in scope["query_string"]:
            # PostgreSQL stores none, so nothing with one can be found.
            await problem(400, "The address holds a NUL character, which no name has.")(scope, receive, send)
            return
        if scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await _read(scope, receive)
        except TimeoutError:
            said = f"The body did not arrive within {BODY_WITHIN_S:.0f} s."
            await problem(408, said, headers={"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            said = f"The body is larger than the {BODY_LIMIT_BYTES:,} bytes that are accepted."
            await problem(413, said)(scope, receive, send)
        elif body and not _is_json(scope):
            await problem(415, "The body is not declared as JSON: send `Content-Type: application/json`.")(
                scope, receive, send
            )
        else:
            await self._app(scope, _replay(body, receive), send)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None if it is too large, which is not read to its end."""
    if _declared(scope) > BODY_LIMIT_BYTES:
        return None
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(parts)  # the client has gone: what is behind sees that too
        parts += message.get("body", b"")
        if len(parts) > BODY_LIMIT_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(parts)


def _declared(scope: Scope) -> int:
    found = _header(scope, b"content-length")
    return int(found) if found.isdigit() else 0


def _is_json(scope: Scope) -> bool:
    media = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    return media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json"))


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in scope["headers"] if name == wanted), b"")


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
