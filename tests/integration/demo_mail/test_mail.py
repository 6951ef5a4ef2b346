"""The demo's post: what SMTP accepted is in the mailbox when it says so, and nothing outlives the demo."""

from __future__ import annotations

import imaplib
import os
import shutil
import signal
import smtplib
import subprocess
import sys
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path

import psutil
import pytest

from beatline_tasks.demo.dovecot import find_dovecot
from beatline_tasks.demo.mail import MAILBOXES, MailServers, mail_servers
from support.waiting import wait_until


def mail(servers: MailServers, *mailboxes: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["Subject"] = "reports@demo.example", "Figures of March"
    message["To"] = ", ".join(map(servers.address_of, mailboxes))
    message.set_content("See the attachment.")
    message.add_attachment(bytes(range(256)) * 400, "application", "octet-stream", filename="figures.bin")
    return message


def sent(servers: MailServers, message: EmailMessage) -> None:
    with smtplib.SMTP(servers.smtp_host, servers.smtp_port, timeout=10) as client:
        client.login(servers.smtp_user, servers.smtp_password)
        client.send_message(message)


def subjects(servers: MailServers, mailbox: str) -> list[bytes]:
    client = imaplib.IMAP4(servers.imap_host, servers.imap_port, 10)
    try:
        client.login(mailbox, servers.imap_password)
        client.select(readonly=True)
        numbers = client.uid("SEARCH", "ALL")[1][0].split()
        return [
            client.uid("FETCH", number.decode(), "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1][0][1].strip()
            for number in numbers
        ]
    finally:
        client.logout()


@pytest.fixture(params=["dovecot", "pymap"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "dovecot" and find_dovecot() is None:
        if os.environ.get("CI"):
            pytest.fail("There is no Dovecot 2.3 here")
        pytest.skip("There is no Dovecot 2.3 here")
    return str(request.param)


def test_an_accepted_mail_is_in_the_mailbox_of_each_recipient_and_in_no_other(kind: str) -> None:
    with mail_servers(prefer_dovecot=kind == "dovecot") as servers:
        assert servers.imap_server == kind
        assert servers.mailboxes == MAILBOXES
        sent(servers, mail(servers, "demo01", "demo20"))
        assert subjects(servers, "demo01") == subjects(servers, "demo20") == [b"Subject: Figures of March"]
        assert subjects(servers, "demo02") == []
        with (
            imaplib.IMAP4(servers.imap_host, servers.imap_port, 10) as client,
            pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"),
        ):
            client.login("demo01", "wrong")
        assert servers.imap_password not in repr(servers)
        assert servers.smtp_password not in repr(servers)


def test_who_has_no_mailbox_is_refused_and_the_others_get_theirs(kind: str) -> None:
    with mail_servers(prefer_dovecot=kind == "dovecot") as servers:
        message = mail(servers, "demo01", "nobody")
        with smtplib.SMTP(servers.smtp_host, servers.smtp_port, timeout=10) as client:
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.send_message(message)
            client.login(servers.smtp_user, servers.smtp_password)
            refused = client.send_message(message)
        assert [code for code, _ in refused.values()] == [550]
        assert len(subjects(servers, "demo01")) == 1


HOLD = """
import sys
from beatline_tasks.demo.mail import mail_servers
with mail_servers(prefer_dovecot=sys.argv[1] == "dovecot") as servers:
    print("ready", servers.imap_port, flush=True)
    sys.stdin.read()
"""


def folders_of(processes: list[psutil.Process]) -> set[Path]:
    """Where servers keep their data; a helper of Dovecot's that has just ended has no folder any more."""
    found: set[Path] = set()
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            found.add(Path(str(one.cwd()).removesuffix("/run")))
    return found


@pytest.mark.parametrize("signum", [signal.SIGKILL, None])
def test_no_server_outlives_its_parent(kind: str, signum: signal.Signals | None) -> None:
    parent = subprocess.Popen([sys.executable, "-c", HOLD, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline().startswith(b"ready")
        left = psutil.Process(parent.pid).children(recursive=True)
        assert left
        folders = folders_of(left)
        assert folders
        if signum is None:
            parent.stdin.close()
        else:
            parent.send_signal(signum)
        parent.wait(20)
        wait_until(lambda: not [one for one in left if one.is_running()], 20, what="every server has ended")
        remaining = [folder for folder in folders if folder.exists()]
        for folder in remaining:
            shutil.rmtree(folder, ignore_errors=True)  # its own helpers may still be taking it away
        assert signum == signal.SIGKILL or not remaining
    finally:
        parent.kill()
        parent.wait(20)
        parent.stdout.close()
        parent.stdin.close()
