"""The outermost layer: one log line a request, security headers on every answer, a problem for whatever goes wrong."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beatline.api.gate import token_of
from beatline.api.problems import problem, problem_of
from beatline.clock import monotonic_s
from beatline.logs import get_logger

QUIET: Final = ("/healthz", "/readyz")
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

log = get_logger(__name__)


class Edge:
    """Wraps an ASGI app. Nothing that a client sent but method and path is logged: tokens stand in headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = monotonic_s(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as exc:
            if status:
                raise  # half an answer is out: only the server can break it off
            response = problem_of(exc)
            if response is None:
                log.exception("request failed", method=scope["method"], path=_path(scope))
                response = problem(500, "This is a fault of Beatline's: the log of `beatline api` has its traceback.")
            elif response.status_code >= 500:
                log.warning("request refused", method=scope["method"], path=_path(scope), error=_first_line(exc))
            await response(scope, receive, answer)
        finally:
            _tell(scope, status, monotonic_s() - began_s)


def _tell(scope: Scope, status: int, took_s: float) -> None:
    path, client, token = _path(scope), scope.get("client"), token_of(scope)
    say = log.debug if path.endswith(QUIET) and status < 400 else log.info
    say(
        "request",
        method=scope["method"],
        path=path,
        status=status,
        took_ms=round(took_s * 1000, 1),
        client=None if client is None else client[0],
        by=None if token is None else token.name,
    )


def _path(scope: Scope) -> str:
    """The path as it was sent, percent-encoded: no control character of it reaches a terminal."""
    raw = scope.get("raw_path")
    sent = raw if isinstance(raw, bytes) else str(scope["path"]).encode("ascii", "backslashreplace")
    return sent.partition(b"?")[0].decode("ascii", "backslashreplace")


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
