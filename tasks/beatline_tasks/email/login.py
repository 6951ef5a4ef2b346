"""Logging in: by password or by a token that is got anew once if the server refuses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beatline.clock import utc_now
from beatline_tasks.email.errors import MailError, Trouble
from beatline_tasks.email.failures import mail_error
from beatline_tasks.email.oauth import Tokens, renewed, usable
from beatline_tasks.email.session import Session

if TYPE_CHECKING:
    from imap_tools.mailbox import BaseMailBox

    from beatline_tasks.email.mailbox import Mailbox, OAuth
    from beatline_tasks.email.wire import Client


@dataclass(slots=True)
class TokenKeeper:
    """The tokens of one mailbox: what is kept, and how to keep others."""

    kept: Tokens | None
    save: Callable[[Tokens], None]

    def token(self, oauth: OAuth, *, allow_private: bool, anew: bool = False) -> str:
        """A token that is good for a poll. Raises MailError."""
        if anew or self.kept is None or not usable(oauth, self.kept, utc_now()):
            self.kept = renewed(oauth, self.kept, allow_private=allow_private)
            self.save(self.kept)
        return self.kept.access


def open_session(mailbox: Mailbox, keeper: TokenKeeper, *, allow_private: bool) -> Session:
    """A logged-in session. Raises MailError, AddressRefusedError; nothing stays open."""
    # Imported here: imap-tools is needed only where a server is.
    from beatline_tasks.email.wire import connect

    token: str | None = None
    if mailbox.oauth is not None:  # before the connection, so that none waits for the provider
        token = keeper.token(mailbox.oauth, allow_private=allow_private)
    connection, client = connect(mailbox, allow_private=allow_private)
    session = Session(mailbox, connection, client)
    try:
        if mailbox.oauth is None or token is None:
            _by_password(mailbox, connection, client)
        else:
            _by_token(mailbox, mailbox.oauth, client, keeper, token, allow_private=allow_private)
    except BaseException as exc:
        session.close()
        if isinstance(exc, Exception):
            raise mail_error(exc, mailbox, "to log in") from exc
        raise
    return session


def _by_password(mailbox: Mailbox, connection: BaseMailBox, client: Client) -> None:
    assert mailbox.password is not None  # noqa: S101  # the model has seen to it
    password = mailbox.password.get_secret_value()
    plain = (mailbox.user + password).isascii()
    capabilities: Any = client.capabilities
    if "LOGINDISABLED" in capabilities and "AUTH=PLAIN" not in capabilities:
        hint = 'set security = "starttls" or "tls"' if mailbox.security == "plain" else "it may want oauth"
        raise MailError(Trouble.LOGIN, f"{mailbox.place} takes no password on this connection: {hint}.")
    if plain and "LOGINDISABLED" not in capabilities:
        connection.login(mailbox.user, password, initial_folder=None)
    else:  # LOGIN carries ASCII only
        connection.login_utf8(mailbox.user, password, initial_folder=None)


def _by_token(
    mailbox: Mailbox, oauth: OAuth, client: Client, keeper: TokenKeeper, token: str, *, allow_private: bool
) -> None:
    try:
        _authenticate(mailbox, client, token)
    except client.abort:
        raise
    except client.error as exc:
        found = mail_error(exc, mailbox, "to log in")
        if not isinstance(found, MailError) or found.trouble is not Trouble.LOGIN:
            raise
        # It may have been revoked before its time; with a fresh one, the account itself is refused.
        _authenticate(mailbox, client, keeper.token(oauth, allow_private=allow_private, anew=True))


def _authenticate(mailbox: Mailbox, client: Client, token: str) -> None:
    answers = iter([f"user={mailbox.user}\x01auth=Bearer {token}\x01\x01".encode()])
    # To the reason why a token is refused an empty answer is due; then comes the refusal itself.
    client.authenticate("XOAUTH2", lambda _: next(answers, b""))
