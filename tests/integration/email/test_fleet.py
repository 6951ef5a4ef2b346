"""All mailboxes at once: their schedules, a CSV file, their status, what goes when one is removed, and `check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from beatline.errors import BeatlineError, DefinitionError
from support.mails import mail

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation
    from support.dovecot import ImapServer

FILE = b'Subject: file\r\nContent-Type: application/pdf; name="a.pdf"\r\n\r\nthe file\r\n'
DEEP = b"Subject: deep\r\n" + b"".join(
    b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(60)
)


def schedules(installed: Installation) -> dict[str, Any]:
    """The schedules of mailboxes, by name."""
    from beatline.schedules import store

    with installed.engine.connect() as conn:
        return {found.name: found for found in store.list_schedules(conn) if found.name.startswith("mailbox.")}


def test_each_mailbox_has_one_schedule_spread_over_its_period(installed: Installation, add_mailbox: Any) -> None:
    from beatline.definitions import store
    from beatline.schedules import store as schedule_store
    from beatline_tasks.email.scheduling import sync

    boxes = {box.name: box for box in (add_mailbox(f"box{n}") for n in range(20))}
    own = add_mailbox("own", interval_s=300, priority=8)
    assert sync(installed, 60).counts == {"added": 21, "changed": 0, "unchanged": 0, "removed": 0, "left_alone": 0}
    found = schedules(installed)
    assert found["mailbox.own"].trigger["every_s"] == 300
    assert (found["mailbox.own"].priority, found["mailbox.own"].args) == (8, [str(own.id)])
    starts = {found[f"mailbox.{name}"].trigger["start"] for name in boxes}
    assert len(starts) == 20
    assert all(start < "2020-01-01T00:01:00" for start in starts)

    assert sync(installed, 60).counts["unchanged"] == 21
    assert {name: one.version for name, one in schedules(installed).items()} == dict.fromkeys(found, 1)
    with installed.engine.begin() as conn:
        store.park(conn, boxes["box0"], "mended later", who="test")
        schedule_store.pause(conn, "mailbox.box1", who="test")
    assert sync(installed, 60).counts == {"added": 0, "changed": 0, "unchanged": 20, "removed": 1, "left_alone": 0}
    assert schedules(installed)["mailbox.box1"].paused_at is not None
    assert sync(installed, 120).counts["changed"] == 19  # those that name no interval of their own
    with pytest.raises(BeatlineError, match="between 1 s and a day"):
        sync(installed, "soon")  # type: ignore[arg-type]  # a message can hold anything


def test_what_hangs_on_a_mailbox_goes_with_it(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    from beatline.definitions import store
    from beatline.families import kinds
    from beatline.ledger.database import sql
    from beatline_tasks.email.scheduling import sync

    gone, stays = dovecot.user("gone"), dovecot.user("stays")
    for user in (gone, stays):
        dovecot.deliver(user, FILE, DEEP)
        add_mailbox(user, keep_raw="always")
        poll(user)
    sync(installed)
    removed = kinds()["mailbox"].load_removed()
    assert removed is not None
    with installed.engine.begin() as conn:
        definition = store.get(conn, "mailbox", gone)
        removed(conn, installed, definition)
        store.remove(conn, "mailbox", gone, who="test")
    assert [row["folder"] for row in rows()] == ["INBOX"]
    tables = ("email_attachments", "email_quarantine", "email_accounts")
    assert [len(rows(table, "1")) for table in tables] == [1, 1, 1]
    assert set(schedules(installed)) == {f"mailbox.{stays}"}
    with installed.engine.connect() as conn:
        left = conn.execute(sql(conn, "SELECT count(*) FROM {schema}.artifacts")).scalar_one()
    assert left == 3  # the raw message, its file and the quarantined one of the other mailbox


def test_two_hundred_mailboxes_come_from_a_file_row_by_row(
    installed: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from beatline.definitions import open_spec, store
    from beatline_tasks.email.csvfile import import_file
    from beatline_tasks.email.mailbox import Mailbox

    monkeypatch.setenv("BOX_PASSWORD", "of the environment")
    (tmp_path / "secret").write_text("of the file\n")
    lines = ["name;host;port;user;password;password_env;password_file;folders;interval_s;timeouts.read_s"]
    lines += [f'box{n};imap.example.com;993;u{n}; pass {n} ;;;"INBOX;Rechnungen {n}";60;20' for n in range(198)]
    lines += ["env;imap.example.com;;u;;BOX_PASSWORD;;;;", "file;imap.example.com;;u;;;secret;;;"]
    lines += [
        "box1;imap.example.com;;u;x;;;;;",
        "nohost;;;u;x;;;;;",
        "bad port;imap.example.com;;u;x;;;;;",
        "port;imap.example.com;99999;u;x;;;;;",
        "nopass;imap.example.com;;u;;;;;;",
        "unset;imap.example.com;;u;;NO_SUCH_VARIABLE;;;;",
        "both;imap.example.com;;u;x;BOX_PASSWORD;;;;",
        "long;imap.example.com;;u;x;;;;;;more",
    ]
    file = tmp_path / "boxes.csv"
    file.write_text("\n".join(lines), "utf-8-sig")
    first = import_file(installed, file=file)
    assert not first.ok
    assert dict(first.details) == {"added": 200, "changed": 0, "unchanged": 0, "refused": 8}
    assert len(schedules(installed)) == 200
    refused = {row["line"]: str(row["why"]) for row in first.rows}
    assert list(refused) == list(range(202, 210))
    for line, words in enumerate(
        ["earlier line", "host: is required", "not allowed", "port: must be less", "password: give it or oauth",
         "NO_SUCH_VARIABLE is not set", "both say it", "more cells than columns"], 202,
    ):  # fmt: skip
        assert words in refused[line], (line, refused[line])
    assert not any("of the environment" in why or " pass " in why for why in refused.values())

    with installed.engine.connect() as conn:
        opened = {name: store.get(conn, "mailbox", name) for name in ("box7", "env", "file")}
    specs = {name: open_spec(installed, found, Mailbox) for name, found in opened.items()}
    passwords = {name: spec.password.get_secret_value() for name, spec in specs.items() if spec.password}
    assert passwords == {"box7": " pass 7 ", "env": "of the environment", "file": "of the file"}
    assert (specs["box7"].timeouts.read_s, specs["box7"].folders) == (20, ("INBOX", "Rechnungen 7"))

    again = import_file(installed, file=file)
    assert dict(again.details) == {"added": 0, "changed": 0, "unchanged": 200, "refused": 8}
    file.write_text("\n".join(lines).replace("box3;imap.", "box3;mail."), "utf-8")
    assert import_file(installed, file=file).details["changed"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name,host,pasword\nx,y,z\n", "no column 'pasword'"),
        (b"host,user\ny,z\n", "needs a column 'name'"),
        (b"name,name\ny,z\n", "twice"),
        (b"name,host\n\xff\xfe,x\n", "not UTF-8"),
        (b'name,host\n"x,y\n', "is not CSV"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(
    installed: Installation, tmp_path: Path, content: bytes, words: str
) -> None:
    from beatline_tasks.email.csvfile import import_file

    file = tmp_path / "boxes.csv"
    file.write_bytes(content)
    with pytest.raises(DefinitionError, match=words):
        import_file(installed, file=file)
    with pytest.raises(DefinitionError, match="cannot be read"):
        import_file(installed, file=tmp_path / "none.csv")


def test_the_status_shows_every_mailbox_in_words(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, installed: Installation
) -> None:
    from beatline.definitions import store
    from beatline.ledger.database import sql
    from beatline_tasks.email.errors import MailError
    from beatline_tasks.email.status import status

    user = dovecot.user("a")
    dovecot.deliver(user, mail("one"), DEEP)
    boxes = [add_mailbox(user), *(add_mailbox(name, password="wrong") for name in ("b", "c", "d", "e"))]
    poll(user)
    for name in ("b", "e"):
        with pytest.raises(MailError):
            poll(name)
    with installed.engine.begin() as conn:
        store.park(conn, boxes[2], "its key is lost", who="test")
        conn.execute(
            sql(conn, "UPDATE {schema}.email_accounts SET last_try_at = now() - interval '1 hour', next_try_at = NULL "
                "WHERE mailbox = :id"), {"id": boxes[4].id},
        )  # fmt: skip
        conn.execute(sql(conn, "UPDATE {schema}.email_messages SET state = 'failed'"))
    found = {row["name"]: row for row in status(installed).rows}
    states = {name[:1]: row["state"] for name, row in found.items()}
    assert states == {"a": "ok", "b": "login refused", "c": "parked", "d": "never polled", "e": "overdue"}
    assert [found[user][name] for name in ("lag", "messages", "failed", "quarantine")] == [0, 1, 1, 1]
    assert "failed to log in" in found["b"]["error"]
    assert found["c"]["error"] == "its key is lost"


def test_check_connects_for_real(dovecot: ImapServer, add_mailbox: Any, poll: Any, installed: Installation) -> None:
    from beatline.definitions import store
    from beatline_tasks.email.actions import check
    from beatline_tasks.email.errors import MailError

    user = dovecot.user()
    dovecot.append(user, mail("one"), folder="Bills")
    good: Definition = add_mailbox(user, folders=["INBOX", "Bills"], on_message="shop.read_bill")
    wrong = add_mailbox("wrong", password="hunter2")
    missing = add_mailbox("missing", user=user, folders=["Bils"])
    nobody = add_mailbox("nobody", host="no.such.host.example")
    with installed.engine.begin() as conn:
        store.park(conn, good, "a person was asked", who="test")
        parked = store.get(conn, "mailbox", good.name)
    finding = check(installed, parked)
    assert finding.ok, finding.text
    assert "polled again" in finding.text
    assert "in the open" in finding.text
    assert "No task 'shop.read_bill' is known here" in finding.text
    assert "IMAP4REV1" in finding.details["capabilities"]
    assert finding.details["in Bills"].startswith("1 message,")
    assert poll(user)["new"] == 1
    for box, words in (
        (wrong, "failed to log in"),
        (missing, "There is no folder 'Bils'"),
        (nobody, "cannot be resolved"),
    ):
        finding = check(installed, box)
        assert not finding.ok
        assert words in finding.text
        assert "hunter2" not in finding.text
    with pytest.raises(MailError):
        poll("wrong")
