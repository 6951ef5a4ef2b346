"""An SMTP server in a thread of this process, on a free loopback port."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from contextlib import suppress
from typing import Any, Final

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from beatline.embedded.ports import LOOPBACK

SIZE_LIMIT: Final = 64 * 1024 * 1024
LOGIN_FIRST: Final = "530 5.7.0 Authentication required"


class Login:
    """The part of a handler that lets in one user with one password; with no user, everybody."""

    def __init__(self, user: str | None, password: str) -> None:
        self.user, self.password = user, password

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: object
    ) -> AuthResult:
        """Whether a login is right."""
        right = isinstance(auth_data, LoginPassword) and auth_data == LoginPassword(
            (self.user or "").encode(), self.password.encode()
        )
        return AuthResult(success=right and self.user is not None, handled=False, auth_data=auth_data)

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, mail_options: list[str]
    ) -> str:
        """Refuse a sender who has not logged in."""
        # aiosmtpd's own option for this warns of a login without TLS, which on loopback is meant.
        if self.user is not None and not session.authenticated:
            return LOGIN_FIRST
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 OK"


class SmtpThread:
    """Serves SMTP from `start` to `stop`. `handler` is what aiosmtpd asks; see Login. Not to be started twice."""

    def __init__(
        self,
        handler: Login,
        *,
        tls: ssl.SSLContext | None = None,
        starttls: ssl.SSLContext | None = None,
        name: str = "smtp",
    ) -> None:
        self.host = LOOPBACK
        self.port = 0
        self._handler, self._tls, self._starttls = handler, tls, starttls
        self._protocols: list[SMTP] = []
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # aiosmtpd warns at each login of a deprecated attribute that it sets itself.
        logging.getLogger("mail.log").setLevel(logging.ERROR)

    def start(self) -> None:
        """Listen; the port is known when this returns."""
        self._thread.start()
        self._listening.wait()

    def stop(self) -> None:
        """End at once; who is in the middle of a mail is cut off."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(self._protocol, host=self.host, port=0, ssl=self._tls)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._loop.run_until_complete(self._cut_off())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _protocol(self) -> SMTP:
        options: dict[str, Any] = {"tls_context": self._starttls, "require_starttls": self._starttls is not None}
        protocol = SMTP(
            self._handler,
            hostname="localhost",
            data_size_limit=SIZE_LIMIT,
            enable_SMTPUTF8=True,
            authenticator=self._handler.authenticate,
            auth_require_tls=False,
            loop=self._loop,
            **options,
        )
        self._protocols.append(protocol)
        return protocol

    async def _cut_off(self) -> None:
        for protocol in self._protocols:
            if isinstance(protocol.transport, asyncio.WriteTransport):
                protocol.transport.abort()
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks(self._loop) if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*left, return_exceptions=True)
