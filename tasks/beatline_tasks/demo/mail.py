"""The demo's own post: mail sent by SMTP lies in a mailbox that IMAP reads, all through sockets on loopback."""

from __future__ import annotations

import asyncio
import imaplib
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from aiosmtpd.smtp import SMTP, Envelope, Session

from beatline_tasks.demo.dovecot import Dovecot, find_dovecot
from beatline_tasks.demo.inbox import Pymap
from beatline_tasks.demo.smtp import Login, SmtpThread

MAILBOXES: Final = tuple(f"demo{number:02}" for number in range(1, 21))
DOMAIN: Final = "demo.example"
_DELIVER_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServers:
    """Running servers. One password opens every mailbox; SMTP has a user of its own."""

    imap_server: str
    """Which program: dovecot or pymap."""
    imap_host: str
    imap_port: int
    imap_password: str = field(repr=False)
    mailboxes: tuple[str, ...]
    """The IMAP users."""
    smtp_host: str
    smtp_port: int
    smtp_user: str
    smtp_password: str = field(repr=False)

    @property
    def smtp_url(self) -> str:
        """As a connection's `url` has it; its security is `plain`."""
        return f"smtp://{self.smtp_host}:{self.smtp_port}"

    def address_of(self, mailbox: str) -> str:
        """Mail sent to this address lies in that mailbox."""
        return f"{mailbox}@{DOMAIN}"


@contextmanager
def mail_servers(*, prefer_dovecot: bool = True) -> Generator[MailServers]:
    """Start both on free ports, and end both. Only from the main thread. Raises ServiceError in a sentence.

    IMAP is Dovecot 2.3 where that is installed, else pymap; both keep the mail only while they run.
    """
    password, smtp_password = secrets.token_urlsafe(18), secrets.token_urlsafe(18)
    found = prefer_dovecot and find_dovecot() is not None
    imap = Dovecot(password=password) if found else Pymap(MAILBOXES, password=password)
    try:
        imap.start()
        bridge = Bridge("sender", smtp_password, imap.host, imap.port, password)
        smtp = SmtpThread(bridge, name="demo smtp")
        smtp.start()
        try:
            yield MailServers(
                imap_server=imap.name,
                imap_host=imap.host,
                imap_port=imap.port,
                imap_password=password,
                mailboxes=MAILBOXES,
                smtp_host=smtp.host,
                smtp_port=smtp.port,
                smtp_user="sender",
                smtp_password=smtp_password,
            )
        finally:
            smtp.stop()
    finally:
        imap.close()


class Bridge(Login):
    """Takes mail for the mailboxes, and says so to the sender only once IMAP has stored it."""

    def __init__(self, user: str, password: str, imap_host: str, imap_port: int, imap_password: str) -> None:
        super().__init__(user, password)
        self._host, self._port, self._imap_password = imap_host, imap_port, imap_password

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        """Refuse whom we have no mailbox for."""
        mailbox, _, domain = address.lower().partition("@")
        if domain != DOMAIN or mailbox not in MAILBOXES:
            return "550 5.1.1 No such mailbox"
        envelope.rcpt_tos.append(mailbox)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store one copy for each recipient."""
        raw = envelope.content
        if not isinstance(raw, bytes):
            return "500 5.5.2 No data"
        loop = asyncio.get_running_loop()
        try:
            for mailbox in dict.fromkeys(str(one) for one in envelope.rcpt_tos):
                await loop.run_in_executor(None, self._append, mailbox, raw)
        except (OSError, imaplib.IMAP4.error):
            return "451 4.3.0 The mailbox does not answer, try again later"
        return "250 2.0.0 Delivered"

    def _append(self, mailbox: str, raw: bytes) -> None:
        client = imaplib.IMAP4(self._host, self._port, _DELIVER_S)
        try:
            client.login(mailbox, self._imap_password)
            answer, said = client.append("INBOX", "", "", raw)
            if answer != "OK":
                raise imaplib.IMAP4.error(str(said))
        finally:
            client.logout()
