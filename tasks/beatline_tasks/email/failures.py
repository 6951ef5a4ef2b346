"""From what a server or the network said to whose turn it is. Pure; no secret is in what a server answers to us.

Response codes (RFC 5530, 9051 and what large providers add) decide; words do where a server gives none.
"""

from __future__ import annotations

import imaplib
import re
import socket
import ssl
from typing import Any, Final, cast

from beatline.datasets.columns import clean_text
from beatline.errors import BeatlineError
from beatline_tasks.email.errors import MailError, Trouble
from beatline_tasks.email.mailbox import Mailbox

_SAID_CHARS: Final = 300
_CODE: Final = re.compile(r"\[([A-Z][A-Z0-9-]{2,40})[\] ]")
_CODES: Final = {
    "AUTHENTICATIONFAILED": Trouble.LOGIN, "AUTHORIZATIONFAILED": Trouble.LOGIN, "EXPIRED": Trouble.LOGIN,
    "PRIVACYREQUIRED": Trouble.LOGIN, "CONTACTADMIN": Trouble.LOGIN, "WEBALERT": Trouble.LOGIN,
    "UNAVAILABLE": Trouble.THROTTLED, "INUSE": Trouble.THROTTLED, "LIMIT": Trouble.THROTTLED,
    "THROTTLED": Trouble.THROTTLED, "OVERQUOTA": Trouble.THROTTLED, "TOO-MANY-CONNECTIONS": Trouble.THROTTLED,
    "SERVERBUG": Trouble.PROTOCOL, "CLIENTBUG": Trouble.PROTOCOL, "CANNOT": Trouble.PROTOCOL,
    "NONEXISTENT": Trouble.PROTOCOL, "NOPERM": Trouble.PROTOCOL, "CORRUPTION": Trouble.PROTOCOL,
}  # fmt: skip
_LATER: Final = re.compile(
    r"too many|too much|rate.?limit|throttl|try again|temporar|exceeded|quota|maximum number|bandwidth|"
    r"connections? limit|overloaded|\bbusy\b|later",
    re.IGNORECASE,
)
_ADVICE: Final = {
    Trouble.LOGIN: "Correct user and password (or oauth), and see whether the account may use IMAP.",
    Trouble.TOKEN: "Give the mailbox a new oauth.refresh_token.",
    Trouble.THROTTLED: "It is tried again later.",
    Trouble.NETWORK: "It is tried again later.",
    Trouble.PROTOCOL: "See whether host, port and security are those of an IMAP server.",
}


def mail_error(exc: BaseException, mailbox: Mailbox, doing: str, *, connecting: bool = False) -> BeatlineError:
    """The error of ours for one of a library's. `doing` completes "it failed": to log in, to read INBOX."""
    if isinstance(exc, BeatlineError):
        return exc
    if isinstance(exc, ssl.SSLCertVerificationError):
        text = (
            f"{mailbox.place} has a certificate that cannot be verified: {exc.verify_message}. "
            "For certificates of your own, set SSL_CERT_FILE for the workers."
        )
        return MailError(Trouble.NETWORK, text)
    said = said_by(exc)
    trouble = trouble_of(exc, said, logging_in=doing == "to log in")
    text = f"{mailbox.place} failed {doing}: {said}"
    down = connecting and isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError)
    return MailError(trouble, f"{text.rstrip('. ')}. {_ADVICE[trouble]}", host_down=down)


def trouble_of(exc: BaseException, said: str, *, logging_in: bool = False) -> Trouble:
    """What kind of trouble this is."""
    code = _CODE.search(said)
    if code is not None and code[1] in _CODES:
        return _CODES[code[1]]
    if isinstance(exc, OSError) and not _tls_misfit(exc):
        return Trouble.NETWORK
    if _LATER.search(said) and not _tls_misfit(exc):
        return Trouble.THROTTLED
    if isinstance(exc, imaplib.IMAP4.abort):
        # imaplib's word for a lost connection, for a BYE, and for what is no IMAP at all.
        return Trouble.PROTOCOL if "unexpected" in said else Trouble.NETWORK
    return Trouble.LOGIN if logging_in and not _is_bad(exc) else Trouble.PROTOCOL


def breaks(exc: BaseException) -> bool:
    """Whether a connection is of no use after this; after a refusal it is."""
    refused = isinstance(exc, BeatlineError | imaplib.IMAP4.error) or getattr(exc, "command_result", None) is not None
    return not refused or isinstance(exc, imaplib.IMAP4.abort)


def said_by(exc: BaseException) -> str:
    """What a library's exception says, in text on one line, cut."""
    result: Any = getattr(exc, "command_result", None)  # imap-tools': a tuple of status and data
    raw: Any = result[1] if result else list(exc.args[:1])
    if isinstance(exc, socket.timeout):
        return "it did not answer in time" if str(exc) in ("", "timed out") else str(exc)
    if isinstance(exc, OSError) and exc.strerror and not isinstance(exc, ssl.SSLError):
        return exc.strerror
    items = cast("list[Any]", raw)
    words = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in items if item]
    text = clean_text(" ".join(" ".join(words).split()))
    return text[:_SAID_CHARS] or type(exc).__name__


def _is_bad(exc: BaseException) -> bool:
    """Whether the server did not understand us, rather than refused."""
    return "BAD" in str(exc)[:60]


def _tls_misfit(exc: BaseException) -> bool:
    """TLS against a server that speaks plain, or the other way round."""
    return isinstance(exc, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(exc)
