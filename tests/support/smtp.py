"""A real SMTP server for tests, on loopback in a thread: it answers as a test says, and keeps what it got."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Final, Literal, cast

from aiosmtpd.smtp import SMTP, Envelope, LoginPassword, Session

from beatline_tasks.demo.smtp import Login, SmtpThread
from support.certificates import Certificate, make_certificate

DROP: Final = "drop"
"""As an answer: the connection is closed without one."""
OK: Final = "250 OK"
Security = Literal["plain", "starttls", "tls"]


@dataclass(frozen=True, slots=True)
class Got:
    """A mail as it was accepted."""

    sender: str
    recipients: tuple[str, ...]
    raw: bytes
    user: str | None
    encrypted: bool

    @property
    def message(self) -> EmailMessage:
        """The mail, parsed."""
        return message_from_bytes(self.raw, policy=default)


@dataclass(slots=True)
class SmtpServer:
    """A running server, and how it answers: set the fields from the test."""

    security: Security
    user: str | None
    password: str
    certificate: Certificate | None
    host: str = ""
    port: int = 0
    answers: dict[str, str] = field(default_factory=dict[str, str])
    """To each recipient: "250 OK" if it is not named here, else "452 …", "550 …" or DROP."""
    at_end: str = OK
    """To the end of the data; DROP is possible."""
    lost_after_accepting: bool = False
    """Whether a mail is kept and the connection then closed, before the sender hears of it."""
    got: list[Got] = field(default_factory=list[Got])
    asked: list[str] = field(default_factory=list[str])
    """Every recipient that was named, accepted or not."""

    @property
    def url(self) -> str:
        """As a connection's `url` has it."""
        return f"{'smtps' if self.security == 'tls' else 'smtp'}://{self.host}:{self.port}"

    def of(self, recipient: str) -> list[Got]:
        """What was accepted for a recipient."""
        return [one for one in self.got if recipient in one.recipients]


class _Handler(Login):
    def __init__(self, server: SmtpServer) -> None:
        super().__init__(server.user, server.password)
        self._server = server

    async def handle_RCPT(
        self, smtp: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        self._server.asked.append(address)
        answer = self._server.answers.get(address, OK)
        if answer == DROP:
            return _drop(smtp)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, smtp: SMTP, session: Session, envelope: Envelope) -> str:
        server = self._server
        if server.at_end == DROP:
            return _drop(smtp)
        if not server.at_end.startswith("2"):
            return server.at_end
        login = cast("LoginPassword | None", session.auth_data)
        user = login.login.decode() if login else None
        encrypted = server.security == "tls" or session.ssl is not None
        recipients = tuple(str(one) for one in envelope.rcpt_tos)
        raw = cast("bytes", envelope.content)
        server.got.append(Got(str(envelope.mail_from), recipients, raw, user, encrypted))
        return _drop(smtp) if server.lost_after_accepting else server.at_end


def _drop(smtp: SMTP) -> str:
    if isinstance(smtp.transport, asyncio.WriteTransport):
        smtp.transport.abort()
    return "421 Closing"


@contextmanager
def smtp_server(folder: Path, *, security: Security = "plain", login: bool = False) -> Generator[SmtpServer]:
    """Serve until the context is left. With `login` only its made-up user may send."""
    certificate = make_certificate(folder) if security != "plain" else None
    context = certificate.server_context() if certificate else None
    user = f"user-{secrets.token_hex(3)}" if login else None
    server = SmtpServer(security, user, secrets.token_hex(12), certificate)
    thread = SmtpThread(
        _Handler(server),
        tls=context if security == "tls" else None,
        starttls=context if security == "starttls" else None,
    )
    thread.start()
    server.host, server.port = thread.host, thread.port
    try:
        yield server
    finally:
        thread.stop()
