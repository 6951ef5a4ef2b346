"""The tests' own Dovecot does what the tests of mailboxes rely on."""

from __future__ import annotations

import imaplib
import os
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from support.dovecot import ImapServer
from support.waiting import wait_until

RAW = b"Subject: one\r\n\r\nText\r\n"


@contextmanager
def inbox(server: ImapServer, user: str, password: str | None = None) -> Generator[imaplib.IMAP4]:
    client = imaplib.IMAP4(server.host, server.port, 5)
    try:
        client.login(user, password or server.password)
        client.select(readonly=True)
        yield client
    finally:
        client.logout()


def has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def uid_validity(client: imaplib.IMAP4) -> bytes:
    (seen,) = client.response("UIDVALIDITY")[1]
    assert isinstance(seen, bytes)
    return seen


def test_mail_is_delivered_in_order_with_its_time_and_renumbered(dovecot: ImapServer) -> None:
    user = dovecot.user()
    dovecot.deliver(user, RAW, b"Subject: two\n\nbare\n", received=datetime(2024, 2, 29, 12, tzinfo=UTC))
    with inbox(dovecot, user) as client:
        before = uid_validity(client)
        assert client.uid("SEARCH", "ALL") == ("OK", [b"1 2"])
        found = client.uid("FETCH", "1:2", "(INTERNALDATE BODY.PEEK[HEADER])")[1]
    assert b"29-Feb-2024" in found[0][0]
    assert b"Subject: one" in found[0][1]
    dovecot.renumber(user)
    with inbox(dovecot, user) as client:
        assert uid_validity(client) != before
        assert client.uid("SEARCH", "ALL") == ("OK", [b"1 2"])


def test_a_wrong_password_is_refused_and_each_user_has_a_mailbox_of_its_own(dovecot: ImapServer) -> None:
    user, other = dovecot.user(), dovecot.user()
    dovecot.append(user, RAW)
    with inbox(dovecot, other) as client:
        assert client.uid("SEARCH", "ALL") == ("OK", [b""])
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"), inbox(dovecot, user, "wrong"):
        pass


def test_tls_and_starttls_present_a_certificate_that_can_be_trusted(dovecot: ImapServer) -> None:
    trust = ssl.create_default_context(cafile=dovecot.certificate.file)
    secure = imaplib.IMAP4_SSL("localhost", dovecot.tls_port, ssl_context=trust, timeout=5)
    assert secure.login(dovecot.user(), dovecot.password)[0] == "OK"
    secure.logout()
    plain = imaplib.IMAP4("localhost", dovecot.port, 5)
    assert plain.starttls(trust)[0] == "OK"
    assert plain.login(dovecot.user(), dovecot.password)[0] == "OK"
    plain.logout()


def test_a_token_opens_the_mailbox_of_its_user_until_it_is_revoked(dovecot: ImapServer) -> None:
    user = dovecot.user()
    token = dovecot.tokens.issue(user)

    def come_in(as_user: str) -> str:
        client = imaplib.IMAP4(dovecot.host, dovecot.port, 5)
        try:
            return client.authenticate("XOAUTH2", lambda _: f"user={as_user}\1auth=Bearer {token}\1\1".encode())[0]
        finally:
            client.logout()

    assert come_in(user) == "OK"
    with pytest.raises(imaplib.IMAP4.error):
        come_in(dovecot.user())
    del dovecot.tokens.users[token]
    with pytest.raises(imaplib.IMAP4.error):
        come_in(user)


def test_it_can_be_stopped_and_started_and_leaves_nothing_when_it_ends(own_dovecot: ImapServer) -> None:
    user = own_dovecot.user()
    own_dovecot.deliver(user, RAW)
    pid = own_dovecot.pid
    assert pid is not None
    own_dovecot.stop()
    wait_until(lambda: not has_members(pid), what="every process of its group has ended")
    with pytest.raises(ConnectionRefusedError):
        imaplib.IMAP4(own_dovecot.host, own_dovecot.port, 5)
    own_dovecot.start()
    with inbox(own_dovecot, user) as client:
        assert client.uid("SEARCH", "ALL") == ("OK", [b"1"])
