"""Hands mails to a server, one for each recipient, so that a refusal is one recipient's, and a crash loses one at most."""

from __future__ import annotations

import smtplib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from email.errors import MessageError
from typing import TYPE_CHECKING, Final

from beatline.connections.smtp import smtp_session
from beatline.errors import TransientError
from beatline.failpoints import reach
from beatline_tasks.report import deliveries
from beatline_tasks.report.deliveries import Delivery

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from beatline.installation import Installation

_A_SESSION: Final = 40
"""Mails in one session: servers end longer ones."""
_BREAKS: Final = 5
"""Broken sessions one after another, none of which got a mail answered, that are the server's trouble."""
_CLOSING: Final = 421
_OK: Final = range(200, 300)
_PASSING: Final = range(400, 500)

Compose = Callable[[Delivery], bytes]


class _BrokenError(Exception):
    """The server ended the session, before the mail was handed over or (`lost`) after it."""

    def __init__(self, cause: Exception, *, lost: bool) -> None:
        self.lost = lost
        super().__init__(str(cause))


def post(installation: Installation, connection: str, sender: str, rows: Sequence[Delivery], compose: Compose) -> None:
    """Send each row's mail, if it waits for that, and keep in its row what became of it.

    A mail that is refused, or cannot be written, is one recipient's. A session that breaks costs the one mail it broke
    at, and that one only in a session of its own. Raises what `smtp_session` raises, TransientError after several
    broken sessions. What is left pending was not taken, and may be later.
    """
    # Those that an earlier execution had trouble with go last.
    waiting = deque(sorted((row for row in rows if row.state == "pending"), key=lambda row: row.error is not None))
    broken = 0
    while waiting:
        answered = 0
        try:
            with smtp_session(installation, connection) as smtp:
                while waiting and answered < _A_SESSION:
                    _post_one(installation.engine, smtp, sender, waiting[0], compose)
                    waiting.popleft()
                    answered, broken = answered + 1, 0
        except _BrokenError as exc:
            if answered and not exc.lost:
                continue  # servers end a session after some mails, or a refusal: that is not the next one's fault
            row = waiting.popleft()
            if not exc.lost:
                why = f"the connection broke before the mail was handed over: {exc}"
                deliveries.later(installation.engine, row, why)
            broken += 1
            if broken >= _BREAKS:
                raise TransientError(f"The mail server ended {broken} sessions: {exc}.") from exc


def _post_one(engine: Engine, smtp: smtplib.SMTP, sender: str, row: Delivery, compose: Compose) -> None:
    try:
        mail = compose(row)
        with _before_the_mail():
            if not _announced(engine, smtp, sender, row):
                return
    except (ValueError, MessageError) as exc:
        deliveries.refused(engine, row, f"no mail can be written from {sender} to this address: {exc}")
        _forget(smtp)
        return
    # From here to the answer nobody can tell whether the server has it. Who finds this state does not send again.
    if not deliveries.claim(engine, row):
        _forget(smtp)
        return
    reach("report.mail_claimed")
    try:
        code, said = smtp.data(mail)
    except smtplib.SMTPDataError as exc:  # the answer to DATA, before any of the mail
        code, said = exc.smtp_code, _bytes(exc.smtp_error)
    except (smtplib.SMTPException, OSError) as exc:
        deliveries.lost(engine, row)
        raise _BrokenError(exc, lost=True) from exc
    reach("report.mail_accepted")
    _keep_answer(engine, row, code, said)
    if code not in _OK:
        _forget(smtp)


@contextmanager
def _before_the_mail() -> Generator[None]:
    try:
        yield
    except (smtplib.SMTPException, OSError) as exc:
        raise _BrokenError(exc, lost=False) from exc


def _forget(smtp: smtplib.SMTP) -> None:
    """End a mail that is not sent. If the server hung up, the next mail finds that out."""
    with suppress(smtplib.SMTPException, OSError):
        smtp.rset()


def _announced(engine: Engine, smtp: smtplib.SMTP, sender: str, row: Delivery) -> bool:
    """Whether the server will have a mail from this sender for this recipient; a refusal is kept in the row."""
    options = [] if (sender + row.recipient).isascii() else ["SMTPUTF8"]
    if options and not smtp.has_extn("smtputf8"):
        deliveries.refused(engine, row, "the mail server takes no addresses with other than ASCII letters (SMTPUTF8)")
        return False
    code, said = smtp.mail(sender, options)
    if code in _OK:
        code, said = smtp.rcpt(row.recipient)
    if code in _OK:
        return True
    if code == _CLOSING:  # about the session, not about the recipient
        raise smtplib.SMTPServerDisconnected(f"{code} {_words(said)}")
    _keep_answer(engine, row, code, said)
    _forget(smtp)
    return False


def _keep_answer(engine: Engine, row: Delivery, code: int, said: bytes) -> None:
    words = f"{code} {_words(said)}".strip()
    if code in _OK:
        deliveries.sent(engine, row, words)
    elif code in _PASSING:
        deliveries.later(engine, row, f"the mail server says: {words}")
    else:
        deliveries.refused(engine, row, f"the mail server says: {words}")


def _words(said: bytes) -> str:
    return " ".join(said.decode("utf-8", "replace").split())


def _bytes(said: bytes | str) -> bytes:
    return said if isinstance(said, bytes) else said.encode()
