"""Nobody comes past without a token, but to what is open to all: refused before a body is read or a route is looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from beatline.api.problems import problem
from beatline.api.tokens import Token, verify

if TYPE_CHECKING:
    from beatline.installation import Installation

OPEN: Final = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
_TOKEN: Final = "beatline.token"  # noqa: S105  # a key of the ASGI scope
_REALM: Final = 'Bearer realm="beatline"'


def token_of(scope: Scope) -> Token | None:
    """Whose request this is; None before the gate, and for what is open to all."""
    found: Token | None = scope.get(_TOKEN)
    return found


def route_path(scope: Scope) -> str:
    """The path below the place where the app is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


class Gate:
    """Wraps an ASGI app, and asks PostgreSQL for the token of each request: a removed one is refused at once."""

    def __init__(self, app: ASGIApp, installation: Installation) -> None:
        self._app, self._installation = app, installation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in OPEN:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        text = _bearer(given[0]) if len(given) == 1 else None
        if text is None:
            said = "This needs a token: send `Authorization: Bearer …`. `beatline tokens add NAME` makes one."
            await problem(401, said, headers={"WWW-Authenticate": _REALM})(scope, receive, send)
            return
        token = await run_in_threadpool(verify, self._installation.engine, text)
        if token is None or token.expired:
            said = (
                "This token is not known: it was removed, or is not whole."
                if token is None
                else f"The token {token.name!r} expired on {token.expires_at:%Y-%m-%d}: `beatline tokens add` makes another."
            )
            headers = {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'}
            await problem(401, said, headers=headers)(scope, receive, send)
            return
        scope[_TOKEN] = token
        await self._app(scope, receive, send)


def _bearer(header: bytes) -> str | None:
    scheme, _, text = header.decode("latin-1").strip().partition(" ")
    return text.strip() if scheme.lower() == "bearer" and text.strip() else None
