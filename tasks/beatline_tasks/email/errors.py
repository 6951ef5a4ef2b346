"""What can be wrong with a mailbox or its server, told apart by who can mend it and how soon to try again."""

from __future__ import annotations

from enum import StrEnum

from beatline.errors import BeatlineError, TransientError


class Trouble(StrEnum):
    """Why a mailbox cannot be polled. The value is its state as people read it."""

    LOGIN = "login refused"
    TOKEN = "token revoked"  # noqa: S105  # the name of a state
    THROTTLED = "throttled"
    NETWORK = "network"
    PROTOCOL = "protocol"


class MailError(BeatlineError):
    """A mailbox cannot be polled; `trouble` says whose turn it is. `host_down` says that nothing answered at all."""

    def __init__(self, trouble: Trouble, text: str, *, host_down: bool = False) -> None:
        self.trouble, self.host_down = trouble, host_down
        super().__init__(text)


class MailboxError(BeatlineError):
    """A mailbox as it is defined cannot be used: a person must change it."""


class HostBusyError(TransientError):
    """As many connections as are allowed lead to the mailbox's host already."""

    def __init__(self, host: str, limit: int, wait_s: float) -> None:
        self.host, self.limit, self.wait_s = host, limit, wait_s
        super().__init__(f"{host} has all {limit} connections that BEATLINE_EMAIL_CONNECTIONS_PER_HOST allows.", wait_s)
