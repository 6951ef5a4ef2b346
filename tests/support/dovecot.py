"""A real IMAP server for tests: Debian's Dovecot with plain, STARTTLS and TLS, passwords and OAuth tokens.

Every name of a user has a mailbox and the one password, so each test takes names of its own.
"""

from __future__ import annotations

import imaplib
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Final

from beatline.clock import utc_now
from beatline.embedded import ports
from beatline.errors import ServiceError
from beatline_tasks.demo.dovecot import Dovecot, find_dovecot
from support.certificates import Certificate, make_certificate
from support.dovecot_oauth import Tokens, serve_tokens

_MORE: Final = """\
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
auth_mechanisms = plain login xoauth2 oauthbearer
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {oauth}
}}
service imap-login {{
  inet_listener imaps {{
    port = {tls_port}
    ssl = yes
  }}
}}
"""


class ImapServer:
    """A running Dovecot, and how a test puts mail into it. A user's first mail makes the mailbox."""

    def __init__(self, server: Dovecot, tls_port: int, certificate: Certificate, tokens: Tokens, password: str) -> None:
        self._server = server
        self._numbers = count(1)
        self.host = server.host
        self.tls_port = tls_port
        self.certificate = certificate
        self.tokens = tokens
        self.password = password

    @property
    def port(self) -> int:
        """Plain, and STARTTLS."""
        return self._server.port

    @property
    def pid(self) -> int | None:
        """The master process, while it runs."""
        return self._server.pid

    def user(self, prefix: str = "user") -> str:
        """The name of a mailbox that nobody has used."""
        return f"{prefix}-{secrets.token_hex(4)}"

    def deliver(self, user: str, *messages: bytes, received: datetime | None = None) -> None:
        """Put messages into a user's INBOX byte for byte, as a mail transfer agent would, in this order."""
        maildir = self.maildir(user)
        stamp = (received or utc_now()).timestamp()
        for raw in messages:
            name = f"{next(self._numbers):010}.test"
            file = maildir / "tmp" / name
            file.write_bytes(raw)
            os.utime(file, (stamp, stamp))
            self._server.hand_over(file)
            file.rename(maildir / "new" / name)

    def append(self, user: str, *messages: bytes, folder: str = "INBOX") -> None:
        """Put messages into a folder by IMAP, the folder made if need be."""
        client = imaplib.IMAP4(self.host, self.port)
        try:
            client.login(user, self.password)
            client.create(folder)
            for raw in messages:
                answer, said = client.append(folder, "", "", raw)
                assert answer == "OK", said
        finally:
            client.logout()

    def maildir(self, user: str) -> Path:
        """The folder of a user's INBOX, made if need be."""
        maildir = self._server.mail / user
        if not maildir.exists():
            parts = [maildir / part for part in ("cur", "new", "tmp")]
            for part in parts:
                part.mkdir(parents=True)
            self._server.hand_over(maildir, *parts)
        return maildir

    def renumber(self, user: str) -> None:
        """Give the INBOX a new UIDVALIDITY and its messages new UIDs, as a restored or moved mailbox has."""
        for file in self.maildir(user).glob("dovecot*"):
            file.unlink()
        # Dovecot takes the time in seconds for a new UIDVALIDITY, which within one second would be the old one.
        listed = self.maildir(user) / "dovecot-uidlist"
        listed.write_text(f"3 V{int(utc_now().timestamp()) + next(self._numbers)} N1 G{secrets.token_hex(16)}\n")
        self._server.hand_over(listed)

    def remove(self, user: str) -> None:
        """Remove a mailbox."""
        shutil.rmtree(self._server.mail / user, ignore_errors=True)

    def stop(self) -> None:
        """Refuse connections until `start`."""
        self._server.stop()

    def start(self) -> None:
        """Answer again on the same ports, with the same mail."""
        self._server.start()


@contextmanager
def imap_server(folder: Path) -> Generator[ImapServer]:
    """Start a Dovecot, and end it with everything it has. Raises ServiceError where there is none."""
    if find_dovecot() is None:
        raise ServiceError("There is no Dovecot 2.3 here: Debian's package is dovecot-imapd.")
    certificate, password, tls_port = make_certificate(folder), secrets.token_hex(12), ports.free_port()
    server: Dovecot | None = None
    with serve_tokens() as tokens:
        try:
            server = Dovecot(password=password)
            oauth = server.folder / "oauth2.conf"
            oauth.write_text(f"tokeninfo_url = {tokens.info_url}\nusername_attribute = email\n")
            server.hand_over(oauth)
            server.more = _MORE.format(
                certificate=certificate.file, key=certificate.key, oauth=oauth, tls_port=tls_port
            )
            server.start()
            yield ImapServer(server, tls_port, certificate, tokens, password)
        finally:
            if server is not None:
                server.close()
