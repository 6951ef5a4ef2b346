"""The connection to an IMAP server: only to a checked address, and bounded in time and in what it may send.

A thread cannot be interrupted, so nothing here waits for ever: each read has its time-out, and all of them together end
before the deadline, however slowly a server trickles. The typed edge of imaplib and imap-tools.
"""

from __future__ import annotations

import imaplib
import io
import socket
import ssl
from functools import cache
from typing import Any, Final

from imap_tools.mailbox import BaseMailBox

from beatline.clock import monotonic_s
from beatline.errors import TransientError
from beatline.outbound.guard import resolve
from beatline_tasks.email.errors import MailError, Trouble
from beatline_tasks.email.mailbox import Mailbox

_LINE_BYTES: Final = 8 * 2**20
"""Of one line of an answer: a search finds a million messages in one."""
_BUFFER_BYTES: Final = 64 * 1024


class TooMuchError(Exception):
    """The server sends more than was asked for."""


@cache
def tls_context() -> ssl.SSLContext:
    """Verifies certificates; SSL_CERT_FILE names those of an organisation's own. imaplib's own context does not."""
    return ssl.create_default_context()


class _Bounded(io.RawIOBase):
    """What a socket sends, until the deadline and up to an allowance."""

    def __init__(self, sock: socket.socket, client: Client) -> None:
        self._sock, self._client = sock, client

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        client = self._client
        left_s = client.ends_s - monotonic_s()
        if left_s <= 0:
            raise TimeoutError("the time for one poll is over (timeouts.run_s)")
        self._sock.settimeout(min(client.read_s, left_s))
        count = self._sock.recv_into(buffer)
        client.allowance -= count
        if client.allowance < 0:
            raise TooMuchError("the server sends more than it was asked for")
        return count


class Client(imaplib.IMAP4):
    """imaplib's client over a guarded, bounded connection. `allowance` is how many bytes may still come."""

    def __init__(self, mailbox: Mailbox, *, allow_private: bool) -> None:
        self._mailbox, self._allow_private = mailbox, allow_private
        self.read_s = mailbox.timeouts.read_s
        self.ends_s = monotonic_s() + mailbox.timeouts.run_s
        self.allowance = 2**20
        self.reached = False
        self._bounded: tuple[socket.socket, io.BufferedReader] | None = None
        super().__init__(mailbox.host, mailbox.effective_port, mailbox.timeouts.connect_s)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        sock = self._connect_checked(timeout)
        self.reached = True
        if self._mailbox.security != "tls":
            return sock
        try:
            return tls_context().wrap_socket(sock, server_hostname=self._mailbox.host)
        except BaseException:
            sock.close()
            raise

    def _connect_checked(self, timeout: float | None) -> socket.socket:
        box = self._mailbox
        failed: OSError = OSError(f"{box.host} has no address")
        for address in resolve(box.host, box.effective_port, allow_private=self._allow_private):
            left_s = self.ends_s - monotonic_s()
            if left_s <= 0:  # a name can have any number of addresses
                break
            try:
                return socket.create_connection((address, box.effective_port), min(timeout or left_s, left_s))
            except OSError as exc:
                failed = exc
        raise failed

    def _reader(self) -> io.BufferedReader:
        # STARTTLS puts another socket in the place of the first; what came before it is not read on.
        if self._bounded is None or self._bounded[0] is not self.sock:
            self._bounded = (self.sock, io.BufferedReader(_Bounded(self.sock, self), _BUFFER_BYTES))
        return self._bounded[1]

    def read(self, size: int) -> bytes:
        """What a literal holds; refused before memory is taken for more than is allowed."""
        if size > self.allowance + _BUFFER_BYTES:
            raise TooMuchError(f"the server announces {size:,} bytes, more than it was asked for")
        return self._reader().read(size)

    def readline(self) -> bytes:
        """One line of an answer."""
        line = self._reader().readline(_LINE_BYTES + 1)
        if len(line) > _LINE_BYTES:
            raise TooMuchError("the server sends a line without end")
        return line


class Connection(BaseMailBox):
    """imap-tools' mailbox over our client; connects, and secures the connection, when made."""

    def __init__(self, mailbox: Mailbox, *, allow_private: bool) -> None:
        self._mailbox, self._allow_private = mailbox, allow_private
        super().__init__()

    def _get_mailbox_client(self) -> imaplib.IMAP4:
        client = Client(self._mailbox, allow_private=self._allow_private)
        if self._mailbox.security == "starttls":
            try:
                client.starttls(tls_context())
            except BaseException:
                client.shutdown()
                raise
        return client


def connect(mailbox: Mailbox, *, allow_private: bool) -> tuple[Connection, Client]:
    """A connection that has been greeted, not logged in. Raises MailError, AddressRefusedError."""
    # Imported here: what it says is needed only for a failure.
    from beatline_tasks.email.failures import mail_error

    try:
        connection = Connection(mailbox, allow_private=allow_private)
    except TransientError as exc:  # the name cannot be resolved
        raise MailError(Trouble.NETWORK, str(exc), host_down=True) from exc
    except Exception as exc:
        raise mail_error(exc, mailbox, "to connect", connecting=True) from exc
    client: Any = connection.client
    return connection, client
