"""What is committed with the messages of a poll, and what keeps the lock of one poll for the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from beatline.errors import UnknownQueueError
from support.mails import mail
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.engine.messages import StoredMessage
    from beatline.installation import Installation
    from support.dovecot import ImapServer


def test_a_message_is_committed_with_the_run_that_processes_it(
    dovecot: ImapServer,
    add_mailbox: Any,
    poll: Any,
    rows: Any,
    installed: Installation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from beatline_tasks.email import polling
    from beatline_tasks.email.dispatch import PROCESS, run_id_of

    user = dovecot.user()
    dovecot.deliver(user, mail("one"), mail("two"))
    add_mailbox(user)
    queued: list[str] = []

    def note(_installation: Installation, made: Sequence[StoredMessage]) -> None:
        queued.extend(one.run_id for one in made)

    monkeypatch.setattr(polling, "publish", note)
    assert poll(user) == {"new": 2, "sent": 2, "lag": 0}
    ids = [run_id_of(row["id"], PROCESS) for row in rows()]
    assert queued == ids
    stored = {run_id_of(row["id"], PROCESS): row for row in rows()}
    assert [
        (run["state"], run["task"], run["day"], run["root_id"], run["args_shown"]) for run in rows("runs", "id")
    ] == [
        ("accepted", PROCESS, stored[run_id]["stored_at"].date(), run_id, f"['{stored[run_id]['id']}']")
        for run_id in sorted(ids)
    ]


def test_a_run_that_is_refused_keeps_no_message_out(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = dovecot.user()
    dovecot.deliver(user, mail("one"), mail("two"))
    add_mailbox(user)
    with monkeypatch.context() as broken:
        broken.setattr(app.amqp, "router", app.amqp.Router(queues={"other": None}))
        with pytest.raises(UnknownQueueError):
            poll(user)
    assert [(row["state"], row["sent_on_at"]) for row in rows()] == [("new", None)] * 2
    assert rows("email_quarantine") == []
    assert poll(user) == {"new": 0, "sent": 2, "lag": 0}
    assert all(row["sent_on_at"] for row in rows())


def test_a_run_that_postgresql_refuses_sets_no_message_aside(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    from beatline.errors import BeatlineError
    from beatline.ledger.database import sql

    user = dovecot.user()
    dovecot.deliver(user, mail("one"))
    add_mailbox(user)
    rule = "ALTER TABLE {schema}.runs ADD CONSTRAINT none CHECK (task <> 'email.process_message')"
    with installed.engine.begin() as conn:
        conn.execute(sql(conn, rule))
    with pytest.raises(Exception, match="none") as caught:
        poll(user)
    assert not isinstance(caught.value, BeatlineError)
    assert [(row["state"], row["sent_on_at"]) for row in rows()] == [("new", None)]
    assert rows("email_quarantine") == []
    with installed.engine.begin() as conn:
        conn.execute(sql(conn, "ALTER TABLE {schema}.runs DROP CONSTRAINT none"))
    assert poll(user) == {"new": 0, "sent": 1, "lag": 0}


def test_the_session_of_the_locks_outlives_a_poll_for_a_moment(
    installed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uuid import uuid4

    from beatline_tasks.email import lock as locks

    monkeypatch.setattr(locks, "_IDLE_S", 0.5)
    sessions: list[int] = []
    which = text(
        "SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database "
        "WHERE locktype = 'advisory' AND datname = current_database()"
    )
    here = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
    for _ in range(3):
        with installed.engine.connect() as conn, conn.begin():
            before = set(conn.execute(which).scalars())
            with locks.mailbox_lock(installed.engine, uuid4()) as lock:
                assert lock is not None
                lock.check()
                [pid] = set(conn.execute(which).scalars()) - before
                sessions.append(pid)
        if len(sessions) == 2:  # a session that breaks while it is idle costs nobody anything
            with installed.engine.begin() as conn:
                conn.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    assert sessions[0] == sessions[1] != sessions[2]

    def gone() -> bool:
        with installed.engine.begin() as conn:
            return int(conn.execute(here, {"pid": sessions[2]}).scalar_one()) == 0

    wait_until(gone, 10, what="the idle session is closed")
