"""Serves the admin API with uvicorn in this process, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from beatline.api.heads import Heads
from beatline.errors import ServiceError
from beatline.logs import configure, get_logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from beatline.installation import Installation

GRACE_S: Final = 10
"""How long requests may take to their end once it was asked to stop."""
AT_ONCE: Final = 200
BACKLOG: Final = 128

log = get_logger(__name__)


class Lazily:
    """Makes an app when it is first asked for anything but /healthz: one that idles takes half the memory."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._app: ASGIApp | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None and scope["type"] == "http" and scope["path"] == "/healthz":
            headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"status":"ok"}'})
            return
        async with self._making:
            if self._app is None:
                self._app = await asyncio.to_thread(self._make)
        await self._app(scope, receive, send)


def serve(installation: Installation, *, lazily: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that have begun come to their end.

    Raises ServiceError if the address cannot be had.
    """

    def make() -> Any:
        from beatline.api.app import create_api  # FastAPI, SQLAlchemy and kombu

        return create_api(installation)

    settings = installation.settings
    configure(settings)
    listening = _listen(settings.api_host, settings.api_port)
    config = uvicorn.Config(
        Lazily(make) if lazily else make(),
        loop="asyncio",
        http=Heads,
        ws="none",
        lifespan="off",
        log_config=None,  # ours
        access_log=False,  # the edge writes it, without queries
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=AT_ONCE,
    )
    # uvicorn raises the signal again when it is done: then it shall find one who lets this process end with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    with listening:
        log.info("api_started", url=f"http://{_shown(settings.api_host)}:{listening.getsockname()[1]}/docs")
        uvicorn.Server(config).run(sockets=[listening])


def _end(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the server has ended."""


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, asyncio sends small answers at once instead of after 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), port))
        listening.listen(BACKLOG)
    except OSError as exc:
        listening.close()
        raise ServiceError(
            f"The admin API cannot listen on {_shown(host)}:{port}: {exc.strerror or exc}. Set BEATLINE_API_PORT or "
            "BEATLINE_API_HOST to an address that is free."
        ) from None
    listening.setblocking(False)
    return listening


def _shown(host: str) -> str:
    return f"[{host.strip('[]')}]" if ":" in host else host
