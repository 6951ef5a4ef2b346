"""A folder whose UIDVALIDITY changes: what was stored is found again, by Message-ID or by content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.mails import mail

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.dovecot import ImapServer

DEEP = b"Subject: deep\r\n" + b"".join(
    b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(60)
)
HUGE = mail("huge", "x" * 70 + ("\r\n" + "y" * 76) * 100)


def test_nothing_is_imported_again(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    user = dovecot.user()
    dovecot.deliver(
        user,
        mail("named", message_id="a@x"),
        mail("nameless"),
        mail("first double", message_id="d@x"),
        mail("second double", message_id="d@x"),
        mail("same"),
        mail("same"),
        mail("blank", headers={"Message-ID": "<>"}),
        DEEP,
        HUGE,
    )
    add_mailbox(user, max_message_bytes=5000)
    assert poll(user)["new"] == 8
    before = {row["id"]: (row["subject"], row["uidvalidity"]) for row in rows()}
    quarantined = rows("email_quarantine")

    dovecot.renumber(user)
    dovecot.deliver(user, mail("really new", message_id="n@x"), mail("another"))
    result = poll(user)
    assert (result["new"], result["sent"], result["known"], result["lag"]) == (2, 2, 9, 0)
    after = {row["id"]: (row["subject"], row["uidvalidity"]) for row in rows()}
    assert {key: after[key][0] for key in before} == {key: subject for key, (subject, _) in before.items()}
    assert {validity for _, validity in after.values()}.isdisjoint({validity for _, validity in before.values()})
    assert sorted(after[key][0] for key in after.keys() - before.keys()) == ["another", "really new"]
    [moved] = rows("email_quarantine")
    assert moved["id"] == quarantined[0]["id"]
    assert moved["uidvalidity"] != quarantined[0]["uidvalidity"]

    assert poll(user) == {"new": 0, "sent": 0, "lag": 0}
    dovecot.renumber(user)
    assert poll(user)["known"] == 11
    assert {row["id"] for row in rows()} == after.keys()


def test_a_renumbering_that_was_broken_off_goes_on(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    """The process dies between two batches: what is left of the old messages is still matched, not imported."""
    from beatline.definitions import store
    from beatline.ledger.database import sql
    from beatline_tasks.email import cursor

    user = dovecot.user()
    dovecot.deliver(user, *(mail(f"nameless {n}") for n in range(6)))
    box = add_mailbox(user, batch_messages=2)
    poll(user)
    dovecot.renumber(user)
    poll(user)
    with installed.engine.begin() as conn:  # as it stood after the first batch of two
        state = store.load_state(conn, box)
        position = cursor.position_of(state, "INBOX")
        assert position is not None
        assert (position.uid, position.rematch_to) == (6, 6)
        half = cursor.Position(position.uidvalidity, 2, 6)
        store.save_state(conn, box, cursor.with_position(state, "INBOX", half))
        conn.execute(sql(conn, "UPDATE {schema}.email_messages SET uidvalidity = 1 WHERE uid > 2"))
    ids = {row["id"] for row in rows()}
    assert poll(user) == {"new": 0, "sent": 0, "lag": 0, "known": 4}
    assert {row["id"] for row in rows()} == ids
    assert len({row["uidvalidity"] for row in rows()}) == 1
