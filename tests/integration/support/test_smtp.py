"""The tests' own SMTP server does what the tests of deliveries rely on."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest

from support.smtp import DROP, Security, SmtpServer, smtp_server


def mail(*recipients: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", ", ".join(recipients), "Grüße"
    message.set_content("Text")
    return message


@contextmanager
def client(server: SmtpServer) -> Generator[smtplib.SMTP]:
    trust = ssl.create_default_context(cafile=server.certificate.file if server.certificate else None)
    if server.security == "tls":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=5, context=trust)
    else:
        smtp = smtplib.SMTP(server.host, server.port, timeout=5)
    try:
        if server.security == "starttls":
            smtp.starttls(context=trust)
        yield smtp
    finally:
        smtp.close()


@pytest.mark.parametrize("security", ["plain", "starttls", "tls"])
def test_a_mail_is_kept_with_who_sent_it_and_how(tmp_path: Path, security: Security) -> None:
    with smtp_server(tmp_path, security=security, login=True) as server, client(server) as smtp:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            smtp.send_message(mail("b@example.org"))
        assert refused.value.smtp_code == 530
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(server.user or "", "wrong")
        smtp.login(server.user or "", server.password)
        smtp.send_message(mail("b@example.org"))
    (got,) = server.of("b@example.org")
    assert (got.user, got.encrypted) == (server.user, security != "plain")
    assert got.message["Subject"] == "Grüße"


def test_each_recipient_gets_its_own_answer(smtp: SmtpServer) -> None:
    smtp.answers = {"full@example.org": "452 4.2.2 Mailbox full", "gone@example.org": "550 5.1.1 No such user"}
    with client(smtp) as sender:
        refused = sender.send_message(mail("b@example.org", "full@example.org", "gone@example.org"))
    assert {one: code for one, (code, _) in refused.items()} == {"full@example.org": 452, "gone@example.org": 550}
    assert [one.recipients for one in smtp.got] == [("b@example.org",)]
    assert smtp.asked == ["b@example.org", "full@example.org", "gone@example.org"]


def test_a_connection_can_be_dropped_at_a_recipient(smtp: SmtpServer) -> None:
    smtp.answers = {"drop@example.org": DROP}
    with client(smtp) as sender, pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        sender.send_message(mail("drop@example.org"))
    assert not smtp.got


def test_a_connection_can_be_lost_after_the_mail_was_taken(smtp: SmtpServer) -> None:
    smtp.lost_after_accepting = True
    with client(smtp) as sender, pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        sender.send_message(mail("b@example.org"))
    assert len(smtp.got) == 1
