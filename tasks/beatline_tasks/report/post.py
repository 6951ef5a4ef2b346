"""Hands mails to a server, one for each recipient, so that a refusal is one recipient's, and a crash loses one at most."""

from __future__ import annotations

import smtplib
from collections import deque
from collections.abc import Callable, Sequence
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
_OK: Final = range(200, 300)
_PASSING: Final = range(400, 500)

Compose = Callable[[Delivery], bytes]


class _BrokenError(Exception):
    """The server ended the session."""


def post(installation: Installation, connection: str, sender: str, rows: Sequence[Delivery], compose: Compose) -> None:
    """Send each row's mail, if it waits for that, and keep in its row what became of it.

    A session that breaks costs the one mail it broke at. Raises what `smtp_session` raises, TransientError after several
    broken sessions. What is left pending was not taken, and may be later.
    """
    waiting = deque(row for row in rows if row.state == "pending")
    broken = 0
    while waiting:
        try:
            with smtp_session(installation, connection) as smtp:
                for _ in range(min(_A_SESSION, len(waiting))):
                    _post_one(installation.engine, smtp, sender, waiting.popleft(), compose)
        except _BrokenError as exc:
            broken += 1
            if broken >= _BREAKS:
                raise TransientError(f"The mail server ended {broken} sessions: {exc}.") from exc


def _post_one(engine: Engine, smtp: smtplib.SMTP, sender: str, row: Delivery, compose: Compose) -> None:
    try:
        if not _announced(engine, smtp, sender, row):
            return
    except (smtplib.SMTPException, OSError) as exc:
        deliveries.later(engine, row, f"the connection broke before the mail was handed over: {exc}")
        raise _BrokenError(str(exc)) from exc
    mail = compose(row)
    # From here to the answer nobody can tell whether the server has it. Who finds this state does not send again.
    if not deliveries.claim(engine, row):
        smtp.rset()
        return
    reach("report.mail_claimed")
    try:
        code, said = smtp.data(mail)
    except smtplib.SMTPDataError as exc:  # the answer to DATA, before any of the mail
        code, said = exc.smtp_code, _bytes(exc.smtp_error)
    except (smtplib.SMTPException, OSError) as exc:
        deliveries.lost(engine, row)
        raise _BrokenError(str(exc)) from exc
    reach("report.mail_accepted")
    _keep_answer(engine, row, code, said)
    if code not in _OK:
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
    _keep_answer(engine, row, code, said)
    smtp.rset()
    return False


def _keep_answer(engine: Engine, row: Delivery, code: int, said: bytes) -> None:
    words = f"{code} {' '.join(said.decode('utf-8', 'replace').split())}".strip()
    if code in _OK:
        deliveries.sent(engine, row, words)
    elif code in _PASSING:
        deliveries.later(engine, row, f"the mail server says: {words}")
    else:
        deliveries.refused(engine, row, f"the mail server says: {words}")


def _bytes(said: bytes | str) -> bytes:
    return said if isinstance(said, bytes) else said.encode()
