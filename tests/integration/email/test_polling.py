"""Polls of a real Dovecot: what is stored, what the cursor says, what a second poll adds."""

from __future__ import annotations

import base64
import imaplib
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from beatline.clock import utc_now
from support.mails import mail

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.dovecot import ImapServer

BINARY = bytes(range(256)) * 40
WITH_FILE = (
    b"From: =?utf-8?q?J=C3=B6rg?= <j@example.com>\r\nTo: a@example.com\r\nCc: b@example.com\r\n"
    b"Subject: =?gb2312?B?1tDOxA==?=\r\nMessage-ID: <file@example.com>\r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\n"
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\n\r\nsee there\r\n--x\r\n'
    b'Content-Type: application/pdf; name="..\\\\..\\\\etc\\\\plan.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    + base64.encodebytes(BINARY).replace(b"\n", b"\r\n")
    + b"--x--\r\n"
)
DEEP = b"Subject: deep\r\n" + b"".join(
    b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(60)
)


def test_what_is_new_is_stored_once(dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any) -> None:
    user = dovecot.user()
    dovecot.deliver(user, mail("one", message_id="1@x"), mail("two"))
    add_mailbox(user)
    assert poll(user) == {"new": 2, "sent": 2, "lag": 0}
    assert [(row["subject"], row["message_id"], row["state"]) for row in rows()] == [
        ("one", "1@x", "new"),
        ("two", None, "new"),
    ]
    assert poll(user) == {"new": 0, "sent": 0, "lag": 0}
    dovecot.deliver(user, mail("three"))
    assert poll(user) == {"new": 1, "sent": 1, "lag": 0}
    assert [row["subject"] for row in rows()] == ["one", "two", "three"]
    assert all(row["sent_on_at"] for row in rows())


def test_header_body_and_file_are_read(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    from beatline.artifacts import ArtifactStore

    user = dovecot.user()
    received = utc_now().replace(microsecond=0) - timedelta(hours=3)
    dovecot.deliver(user, WITH_FILE, received=received)
    add_mailbox(user, keep_raw="always")
    poll(user)
    [row] = rows()
    assert (row["sender"], row["subject"]) == ("Jörg <j@example.com>", "中文")
    assert row["recipients"] == ["a@example.com", "b@example.com"]
    assert (row["sent_at"], row["received_at"]) == (received, received)  # its Date lies
    assert row["body_text"].strip() == "see there"
    [file] = rows("email_attachments", "number")
    assert (file["name"], file["content_type"], file["size_bytes"]) == ("plan.pdf", "application/pdf", len(BINARY))
    store = ArtifactStore.of(installed)
    assert store.read(installed.engine, file["artifact"]) == BINARY
    assert store.verify(file["artifact"])
    assert store.read(installed.engine, row["raw"]) == WITH_FILE


def test_a_message_of_30_mb_is_told_by_its_header(dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any) -> None:
    user = dovecot.user()
    huge = mail("huge", "x" * 76 + ("\r\n" + "y" * 76) * 400_000, message_id="huge@x")
    assert len(huge) > 30_000_000
    dovecot.deliver(user, mail("before"), huge, mail("after"))
    add_mailbox(user)
    assert poll(user) == {"new": 3, "sent": 3, "lag": 0, "oversize": 1}
    before, large, after = rows()
    assert (large["subject"], large["oversize"], large["body_text"], large["raw"]) == ("huge", True, "", None)
    assert large["size_bytes"] >= len(huge)
    assert not before["oversize"]
    assert not after["oversize"]


def test_one_bad_message_is_set_aside_and_the_rest_goes_in(
    dovecot: ImapServer,
    add_mailbox: Any,
    poll: Any,
    rows: Any,
    installed: Installation,
    app: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from beatline.artifacts import ArtifactStore
    from beatline_tasks.email import parse
    from beatline_tasks.email.actions import list_quarantine, reprocess

    user = dovecot.user()
    dovecot.deliver(user, mail("before"), DEEP, mail("after"))
    box = add_mailbox(user)
    assert poll(user) == {"new": 2, "sent": 2, "lag": 0, "quarantined": 1}
    assert [row["subject"] for row in rows()] == ["before", "after"]
    [bad] = rows("email_quarantine")
    assert "nested more than 50 deep" in bad["reason"]
    assert ArtifactStore.of(installed).read(installed.engine, bad["raw"]) == DEEP
    assert list_quarantine(installed, box).rows[0]["uid"] == 2
    again = reprocess(installed, box)
    assert not again.ok
    assert "nested" in again.rows[0]["reason"]
    assert not reprocess(installed, box, id="none").ok

    monkeypatch.setattr(parse, "MAX_DEPTH", 100)  # as a later version may read it
    assert reprocess(installed, box, id=str(bad["id"])).ok
    assert [(row["uid"], row["subject"]) for row in rows()] == [(1, "before"), (2, "deep"), (3, "after")]
    assert all(row["sent_on_at"] for row in rows())
    assert rows("email_quarantine") == []


def test_a_folder_is_read_in_batches_up_to_the_time_there_is(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.email import polling

    user = dovecot.user()
    dovecot.deliver(user, *(mail(f"{n}") for n in range(5)))
    add_mailbox(user, batch_messages=2)
    with monkeypatch.context() as patch:
        patch.setattr(polling, "LEAST_S", 1e9)
        assert poll(user) == {"new": 0, "sent": 0, "lag": 5, "more": True}
    assert rows("email_accounts", "mailbox")[0]["lag"] == 5
    assert poll(user) == {"new": 5, "sent": 5, "lag": 0}
    assert rows("email_accounts", "mailbox")[0]["lag"] == 0


@pytest.mark.parametrize(
    ("spec", "subjects"),
    [
        ({}, ["old", "young", "later"]),
        ({"first_sync": "new"}, ["later"]),
        ({"first_sync": "since", "since_days": 7}, ["young", "later"]),
    ],
)
def test_the_first_poll_begins_where_the_mailbox_says(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, spec: dict[str, Any], subjects: list[str]
) -> None:
    user = dovecot.user()
    dovecot.deliver(user, mail("old", message_id="old@x"), received=utc_now() - timedelta(days=30))
    dovecot.deliver(user, mail("young"), received=utc_now() - timedelta(days=3))
    add_mailbox(user, **spec)
    poll(user)
    dovecot.deliver(user, mail("later"))
    poll(user)
    assert [row["subject"] for row in rows()] == subjects
    dovecot.renumber(user)  # what was not wanted then is not wanted now
    assert poll(user)["new"] == 0
    assert [row["subject"] for row in rows()] == subjects


@pytest.mark.parametrize("mark", [False, True])
def test_messages_are_marked_as_read_only_if_asked_for(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, mark: bool
) -> None:
    user = dovecot.user()
    dovecot.deliver(user, mail("one"))
    add_mailbox(user, mark_seen=mark)
    poll(user)
    client = imaplib.IMAP4(dovecot.host, dovecot.port)
    client.login(user, dovecot.password)
    client.select("INBOX", readonly=True)
    assert client.search(None, "SEEN")[1] == [b"1" if mark else b""]
    client.logout()


def test_folders_have_names_of_any_script_and_one_that_is_missing_stops_no_other(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any
) -> None:
    from beatline_tasks.email.errors import MailError, Trouble

    user = dovecot.user()
    dovecot.append(user, mail("in"))
    dovecot.append(user, mail("bill"), folder='"&,rU-"')  # what 2 characters are in IMAP's own UTF-7
    name = _folder_name("&,rU-")
    add_mailbox(user, folders=["INBOX", "nowhere", name])
    with pytest.raises(MailError, match="nowhere") as caught:
        poll(user)
    assert caught.value.trouble is Trouble.PROTOCOL
    assert sorted((row["folder"], row["subject"]) for row in rows()) == sorted([("INBOX", "in"), (name, "bill")])
    [account] = rows("email_accounts", "mailbox")
    assert (account["state"], account["next_try_at"]) == ("protocol", None)  # the others are polled on


def _folder_name(encoded: str) -> str:
    from imap_tools.imap_utf7 import utf7_decode

    return str(utf7_decode(encoded.encode()))


def test_a_cursor_that_was_reset_reads_again_and_adds_nothing(
    dovecot: ImapServer,
    add_mailbox: Any,
    poll: Any,
    rows: Any,
    installed: Installation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from beatline_tasks.email.actions import reset_cursor
    from beatline_tasks.email.session import Session

    user = dovecot.user()
    dovecot.deliver(user, mail("one"), DEEP)
    box = add_mailbox(user)
    poll(user)
    first = rows()
    assert not reset_cursor(installed, box, folder="Other").ok
    assert reset_cursor(installed, box).ok
    asked: list[int] = []
    real = Session.bodies

    def bodies(session: Session, uids: Sequence[int], size_bytes: int) -> Any:
        asked.extend(uids)
        return real(session, uids, size_bytes)

    monkeypatch.setattr(Session, "bodies", bodies)
    assert poll(user) == {"new": 0, "sent": 0, "lag": 0}
    assert rows() == first
    assert len(rows("email_quarantine")) == 1
    assert asked == []  # nor is it fetched
    dovecot.deliver(user, mail("two"))
    assert poll(user) == {"new": 1, "sent": 1, "lag": 0}
    assert asked == [3]


def test_two_polls_at_once_are_one(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from beatline.definitions.lock import definition_lock
    from beatline.task.context import RunContext
    from beatline_tasks.email.lock import mailbox_lock

    user = dovecot.user()
    dovecot.deliver(user, *(mail(f"{n}") for n in range(20)))
    box = add_mailbox(user)
    with mailbox_lock(installed.engine, box.id) as lock:
        assert lock is not None
        lock.check()
        assert poll(user) == "busy"
    other = RunContext("another", 1, 0, "any", "email", None, None)
    with definition_lock(installed.engine, box, other):
        assert poll(user) == "busy"
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(poll, [user] * 16))
    done = [result for result in results if result != "busy"]
    assert sum(result["new"] for result in done) == 20
    assert len(rows()) == 20
