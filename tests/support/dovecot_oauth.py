"""A provider of OAuth tokens on loopback: Dovecot asks it whose a token is, clients renew theirs from it."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(slots=True)
class Tokens:
    """Who may come in with what. Take a token out of `users` or `refresh` and it is revoked."""

    url: str
    users: dict[str, str] = field(default_factory=dict[str, str])
    """Access token → user."""
    refresh: dict[str, str] = field(default_factory=dict[str, str])
    """Refresh token → user."""
    expires_in_s: int = 3600
    renewals: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """The forms that were posted to `token_url`."""
    status: int | None = None
    """If set, what `token_url` answers instead."""

    @property
    def token_url(self) -> str:
        """Where a client posts its refresh token."""
        return f"{self.url}/token"

    @property
    def info_url(self) -> str:
        """Where Dovecot asks, with the token put behind it."""
        return f"{self.url}/tokeninfo?token="

    def issue(self, user: str) -> str:
        """A new access token for a user."""
        token = secrets.token_urlsafe(24)
        self.users[token] = user
        return token

    def issue_refresh(self, user: str) -> str:
        """A new refresh token for a user."""
        token = secrets.token_urlsafe(24)
        self.refresh[token] = user
        return token

    def info(self, token: str) -> tuple[int, dict[str, Any]]:
        """What the provider says of an access token."""
        user = self.users.get(token)
        return (200, {"email": user}) if user else (401, {"error": "invalid_token"})

    def renew(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """What the provider answers to a refresh token."""
        self.renewals.append(form)
        if self.status is not None:
            return self.status, {"error": "temporarily_unavailable"}
        user = self.refresh.get(form.get("refresh_token", ""))
        if user is None or form.get("grant_type") != "refresh_token":
            return 400, {"error": "invalid_grant", "error_description": "the token was revoked"}
        return 200, {"access_token": self.issue(user), "token_type": "Bearer", "expires_in": self.expires_in_s}


@contextmanager
def serve_tokens() -> Generator[Tokens]:
    """Serve until the context is left."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self._send(*tokens.info(query.get("token", [""])[0]))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            self._send(*tokens.renew({name: values[0] for name, values in parse_qs(body).items()}))

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            with suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the path has a token in it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tokens = Tokens(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
