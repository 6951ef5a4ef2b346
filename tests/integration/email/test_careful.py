"""A message that a server does not hand out stops its mailbox for a while at most, and no other message for ever."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from beatline_tasks.email.errors import MailError, Trouble
from support.imap_script import holding, scripted_imap
from support.mails import mail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from beatline.installation import Installation
    from support.dovecot import ImapServer

MAILS = {uid: mail(f"number {uid}") for uid in range(1, 5)}


@pytest.fixture
def poll_anyway(poll: Any, installed: Installation) -> Any:
    """Polls a mailbox as if its back-off were over: what was done, or what kind of trouble it was."""
    from beatline.ledger.database import sql

    def again(name: str) -> Mapping[str, Any] | Trouble:
        with installed.engine.begin() as conn:
            conn.execute(sql(conn, "UPDATE {schema}.email_accounts SET next_try_at = NULL"))
        try:
            return poll(name)  # type: ignore[no-any-return]  # the fixture's own type
        except MailError as exc:
            return exc.trouble

    return again


def set_aside(rows: Any, installed: Installation) -> list[tuple[int, bytes]]:
    """What is in quarantine: UIDs, and what there is of the messages."""
    from beatline.artifacts import ArtifactStore

    files = ArtifactStore.of(installed)
    return [(row["uid"], files.read(installed.engine, row["raw"])) for row in rows("email_quarantine")]


@pytest.mark.parametrize("headless", [False, True])
def test_a_refused_message_is_set_aside_and_the_rest_goes_in(
    add_mailbox: Any, poll: Any, rows: Any, installed: Installation, headless: bool
) -> None:
    with scripted_imap(holding(MAILS, refused={2}, headless={2} if headless else ())) as server:
        add_mailbox("box", host="127.0.0.1", port=server.port)
        assert poll("box") == {"new": 3, "sent": 3, "lag": 0, "quarantined": 1}
        assert poll("box") == {"new": 0, "sent": 0, "lag": 0}
    assert [row["uid"] for row in rows()] == [1, 3, 4]
    head = MAILS[2].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert set_aside(rows, installed) == [(2, b"" if headless else head)]
    assert "does not hand it out" in rows("email_quarantine")[0]["reason"]
    assert "cannot be converted" in rows("email_quarantine")[0]["reason"]
    [account] = rows("email_accounts", "mailbox")
    assert (account["state"], account["failures"]) == ("ok", 0)


def test_what_was_refused_is_asked_for_again_when_a_person_says_so(
    add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    from beatline_tasks.email.actions import reprocess

    refused = {2, 3}
    with scripted_imap(holding(MAILS, refused=refused)) as server:
        box = add_mailbox("box", host="127.0.0.1", port=server.port)
        poll("box")
        again = reprocess(installed, box)  # its header alone is no message
        assert not again.ok
        assert [row["uid"] for row in again.rows] == [2, 3]
        assert "cannot be converted" in again.rows[0]["reason"]
        refused.clear()
        server.says["UID FETCH"] = holding({uid: MAILS[uid] for uid in (1, 2, 4)})["UID FETCH"]
        again = reprocess(installed, box)
        assert [(row["uid"], row["reason"]) for row in again.rows] == [(3, "it is no longer on the server")]
    assert [(row["uid"], row["body_text"].strip()) for row in rows()] == [(uid, "text") for uid in (1, 2, 4)]
    server.server_close()
    assert not reprocess(installed, box).ok  # nor does a dead server cost it anything
    assert [uid for uid, _ in set_aside(rows, installed)] == [3]


def test_a_server_that_refuses_everything_is_not_believed_at_once(
    add_mailbox: Any, poll_anyway: Any, rows: Any, installed: Installation
) -> None:
    troubled = set(MAILS)
    with scripted_imap(holding(MAILS, refused=troubled, headless=troubled)) as server:
        add_mailbox("box", host="127.0.0.1", port=server.port)
        for _ in range(2):
            assert poll_anyway("box") is Trouble.PROTOCOL
            assert rows("email_quarantine") == []
        assert poll_anyway("box") is Trouble.PROTOCOL
        assert set_aside(rows, installed) == [(1, b"")]  # or one message would keep all others out for ever
        troubled.clear()
        assert poll_anyway("box")["new"] == 3
    assert [row["uid"] for row in rows()] == [2, 3, 4]


def test_a_message_that_breaks_the_connection_three_times_is_set_aside(
    add_mailbox: Any, poll_anyway: Any, rows: Any, installed: Installation
) -> None:
    with scripted_imap(holding(MAILS, fatal={2})) as server:
        add_mailbox("box", host="127.0.0.1", port=server.port)
        stored: list[list[int]] = []
        for _ in range(4):
            assert poll_anyway("box") is Trouble.NETWORK
            stored.append([row["uid"] for row in rows()])
        assert stored == [[], [1], [1], [1]]  # from the second on, each alone
        assert poll_anyway("box") == {"new": 2, "sent": 2, "lag": 0}
    assert [row["uid"] for row in rows()] == [1, 3, 4]
    head = MAILS[2].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert set_aside(rows, installed) == [(2, head)]


def test_a_connection_that_breaks_now_and_then_costs_no_message(add_mailbox: Any, poll_anyway: Any, rows: Any) -> None:
    fatal = {1}
    with scripted_imap(holding(MAILS, fatal=fatal)) as server:
        add_mailbox("box", host="127.0.0.1", port=server.port)
        for _ in range(3):  # together, alone, alone
            assert poll_anyway("box") is Trouble.NETWORK
        fatal.clear()
        assert poll_anyway("box")["new"] == 4
    assert rows("email_quarantine") == []


def test_a_lying_size_ends_the_poll_and_is_found_too(
    add_mailbox: Any, poll_anyway: Any, rows: Any, installed: Installation
) -> None:
    large = {1: mail("one"), 2: mail("large", "x" * 3_000_000), 3: mail("three")}
    with scripted_imap(holding(large, sizes={2: 10})) as server:
        add_mailbox("box", host="127.0.0.1", port=server.port, folders=["INBOX", "more"])
        assert poll_anyway("box") is Trouble.PROTOCOL
        assert server.heard.count("EXAMINE") == 1  # the connection is out of step: no other folder is read on it
        for _ in range(3):
            assert poll_anyway("box") is Trouble.PROTOCOL
        assert [uid for uid, _ in set_aside(rows, installed)] == [2]
        for _ in range(4):
            poll_anyway("box")
        assert poll_anyway("box") == {"new": 1, "sent": 1, "lag": 0}
    assert sorted((row["folder"], row["uid"]) for row in rows()) == [
        ("INBOX", 1), ("INBOX", 3), ("more", 1), ("more", 3),
    ]  # fmt: skip


def test_a_backlog_on_a_slow_link_is_no_failure(
    dovecot: ImapServer, add_mailbox: Any, poll_anyway: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.email.session import Session

    user = dovecot.user()
    dovecot.deliver(user, *(mail(f"{number}") for number in range(12)))
    add_mailbox(user, batch_messages=5)
    read, calls = Session.bodies, iter(range(100))

    def slow(session: Any, *given: Any) -> dict[int, bytes]:
        if next(calls) in (1, 2):  # the time is over while the second batch is read, and at once in the next poll
            session._client.ends_s = 0
        return read(session, *given)

    monkeypatch.setattr(Session, "bodies", slow)
    assert poll_anyway(user) == {"new": 5, "sent": 5, "lag": 7, "more": True}
    [account] = rows("email_accounts", "mailbox")
    assert (account["state"], account["failures"], account["lag"]) == ("ok", 0, 7)
    assert poll_anyway(user) is Trouble.NETWORK  # nothing came in
    assert poll_anyway(user)["new"] == 7


def test_mail_is_read_within_the_memory_there_is_for_it(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.email import budget, polling
    from beatline_tasks.email.session import Session

    user = dovecot.user()
    dovecot.deliver(user, mail("one", "x" * 5000))
    add_mailbox(user, timeouts={"run_s": 10})
    left: list[int] = []
    read = Session.bodies

    def watched(session: Session, *given: Any) -> dict[int, bytes]:
        left.append(budget.READING.left_bytes)
        return read(session, *given)

    monkeypatch.setattr(Session, "bodies", watched)
    all_of_it = budget.READING.left_bytes
    monkeypatch.setattr(polling, "LEAST_S", 8.0)
    with budget.READING.lent(all_of_it, 0):
        assert poll(user) == {"new": 0, "sent": 0, "lag": 1, "more": True}
    assert poll(user)["new"] == 1
    assert len(left) == 1
    assert all_of_it - 10_000 < left[0] < all_of_it - 5000
    assert budget.READING.left_bytes == all_of_it


def test_what_postgresql_has_no_place_for_is_set_aside(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline_tasks.email import headers

    monkeypatch.setattr(headers, "_MAX_MESSAGE_ID_BYTES", 10_000)  # what an index does not take
    user, drawn = dovecot.user(), random.Random(1)  # no secret
    long = "".join(chr(drawn.randint(0x4E00, 0x9FA5)) for _ in range(990))
    dovecot.deliver(user, mail("one"), mail("long", message_id=long), mail("three"))
    add_mailbox(user)
    assert poll(user) == {"new": 2, "sent": 2, "lag": 0, "quarantined": 1}
    assert [row["subject"] for row in rows()] == ["one", "three"]
    assert "cannot be stored" in rows("email_quarantine")[0]["reason"]
