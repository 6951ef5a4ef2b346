"""Logging in by a token, against Dovecot and a provider: renewed before it expires, and once when it is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from beatline.clock import utc_now
from beatline_tasks.email.errors import MailError, Trouble
from support.mails import mail

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation
    from support.dovecot import ImapServer


@pytest.fixture
def box(dovecot: ImapServer, add_mailbox: Any) -> Definition:
    """A mailbox of a user with a refresh token."""
    user = dovecot.user()
    dovecot.deliver(user, mail("one"))
    refresh = dovecot.tokens.issue_refresh(user)
    oauth = {"token_url": dovecot.tokens.token_url, "client_id": "beatline", "refresh_token": refresh}
    dovecot.tokens.renewals.clear()
    made: Definition = add_mailbox(user, oauth=oauth)
    return made


def test_a_token_is_got_once_and_used_until_it_expires(
    dovecot: ImapServer, box: Definition, poll: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.email import login

    assert poll(box.name)["new"] == 1
    assert poll(box.name)["new"] == 0
    assert [form["grant_type"] for form in dovecot.tokens.renewals] == ["refresh_token"]
    sealed = bytes(rows("email_accounts", "mailbox")[0]["token"])
    assert not any(token.encode() in sealed for token in dovecot.tokens.users)
    monkeypatch.setattr(login, "utc_now", lambda: utc_now() + timedelta(seconds=3500))
    poll(box.name)
    assert len(dovecot.tokens.renewals) == 2


def test_a_token_that_is_refused_before_its_time_is_got_anew_once(
    dovecot: ImapServer, box: Definition, poll: Any
) -> None:
    poll(box.name)
    dovecot.tokens.users = {k: v for k, v in dovecot.tokens.users.items() if v != box.name}
    assert poll(box.name)["new"] == 0
    assert len(dovecot.tokens.renewals) == 2


def test_a_revoked_refresh_token_is_told_apart_from_a_provider_in_trouble(
    dovecot: ImapServer, box: Definition, poll: Any, rows: Any
) -> None:
    dovecot.tokens.status = 503
    try:
        with pytest.raises(MailError, match="gave no token") as caught:
            poll(box.name)
    finally:
        dovecot.tokens.status = None
    assert caught.value.trouble is Trouble.NETWORK
    _try_again(rows, box)


def _try_again(rows: Any, box: Definition) -> None:
    [account] = [row for row in rows("email_accounts", "mailbox") if row["mailbox"] == box.id]
    assert account["state"] == "network"


def test_a_revoked_token_needs_a_person(dovecot: ImapServer, box: Definition, poll: Any, rows: Any) -> None:
    poll(box.name)
    for known in (dovecot.tokens.users, dovecot.tokens.refresh):
        for token in [token for token, user in known.items() if user == box.name]:
            del known[token]
    with pytest.raises(MailError, match=r"oauth\.refresh_token") as caught:
        poll(box.name)
    assert caught.value.trouble is Trouble.TOKEN
    assert rows("email_accounts", "mailbox")[0]["state"] == "token revoked"
    assert poll(box.name) == "backing off"


def test_the_wrong_user_with_a_good_token_is_refused(
    dovecot: ImapServer, box: Definition, add_mailbox: Any, poll: Any, installed: Installation
) -> None:
    refresh = dovecot.tokens.issue_refresh(box.name)
    oauth = {"token_url": dovecot.tokens.token_url, "client_id": "beatline", "refresh_token": refresh}
    add_mailbox("impostor", user=dovecot.user(), oauth=oauth)
    with pytest.raises(MailError) as caught:
        poll("impostor")
    assert caught.value.trouble is Trouble.LOGIN
    assert refresh not in str(caught.value)
