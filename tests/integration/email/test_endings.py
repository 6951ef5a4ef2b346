"""How a message comes to its end, and how it does when nobody tells it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from beatline.clock import utc_now
from beatline.errors import NotFoundError
from support.ledger import new_run
from support.mails import mail
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from support.dovecot import ImapServer
    from support.serving import MakeSettings

TASK = "crm.read_mail"


def execute(installed: Installation, statement: str, **values: Any) -> int:
    """Change rows by hand."""
    from beatline.ledger.database import sql

    with installed.engine.begin() as conn:
        return conn.execute(sql(conn, statement), values).rowcount


def long_ago(installed: Installation) -> None:
    """Let every message have been sent on a while ago."""
    execute(installed, "UPDATE {schema}.email_messages SET sent_on_at = :at", at=utc_now() - timedelta(minutes=11))


def end_run(installed: Installation, run_id: str, state: str, reason: str | None = None) -> None:
    """Let a run have ended."""
    statement = "UPDATE {schema}.runs SET state = :state, reason = :reason, ended_at = now() WHERE id = :id"
    assert execute(installed, statement, id=run_id, state=state, reason=reason) == 1


def accept(installed: Installation, run_id: str, parent_id: str) -> None:
    """Let the ledger know a run that was handed a message."""
    from beatline.ledger.store import insert_runs

    with installed.engine.begin() as conn:
        insert_runs(conn, [new_run(run_id, task=TASK, parent_id=parent_id)], installed.keyring)


@pytest.fixture
def handed(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation, app: Any
) -> dict[str, tuple[UUID, str]]:
    """Messages in `processing`, and the run each was handed to, by subject."""
    from beatline_tasks.email.dispatch import PROCESS, run_id_of
    from beatline_tasks.email.processing import process

    user = dovecot.user()
    dovecot.deliver(user, *map(mail, ("dead", "expired", "good", "open", "moved", "never")))
    add_mailbox(user, on_message=TASK, keep_raw="failed")
    poll(user)
    found = {row["subject"]: (row["id"], run_id_of(row["id"], TASK)) for row in rows()}
    for subject, (message_id, run_id) in found.items():
        assert process(installed, app, str(message_id)) == f"handed to {TASK}"
        own = run_id_of(message_id, PROCESS)
        end_run(installed, own, "succeeded")
        if subject == "moved":  # its mailbox named another task then
            accept(installed, run_id_of(message_id, "crm.old"), own)
        elif subject != "never":
            accept(installed, run_id, own)
    return found


def test_a_message_whose_run_ended_without_a_word_gets_its_end(
    handed: dict[str, tuple[UUID, str]], rows: Any, installed: Installation, app: Any
) -> None:
    from beatline_tasks.email.leftover import end_leftover
    from beatline_tasks.email.processing import finish, process

    end_run(installed, handed["dead"][1], "dead", "its worker was lost 3 times")
    end_run(installed, handed["expired"][1], "cancelled", "expired")
    end_run(installed, handed["good"][1], "succeeded")
    assert end_leftover(installed) == {"processed": 0, "failed": 0}  # they were sent on a moment ago
    long_ago(installed)
    assert end_leftover(installed) == {"processed": 1, "failed": 3}
    ends = {row["subject"]: (row["state"], row["error"], row["raw"] is None) for row in rows()}
    assert ends == {
        "dead": ("failed", f"{TASK} ended as dead: its worker was lost 3 times", False),
        "expired": ("failed", f"{TASK} ended as cancelled: expired", False),
        "good": ("processed", None, True),
        "open": ("processing", None, False),
        "moved": ("processing", None, False),
        "never": ("failed", "the run it was handed to is unknown to history", False),
    }
    assert end_leftover(installed) == {"processed": 0, "failed": 0}

    again = str(handed["dead"][0])  # a person has the dead run tried again
    assert finish(installed, again, "failed", "still") == "failed already"
    assert finish(installed, again, "processed", None) == "processed"
    assert finish(installed, again, "failed", "an old message") == "processed already"

    assert process(installed, app, str(handed["expired"][0])) == "failed already"
    assert process(installed, app, str(handed["never"][0])) == f"handed to {TASK}"
    assert end_leftover(installed) == {"processed": 0, "failed": 0}
    never = next(row for row in rows() if row["subject"] == "never")
    assert (never["state"], never["error"], never["ended_at"]) == ("processing", None, None)


def test_a_message_whose_own_run_is_dead_gets_its_end(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation, app: Any
) -> None:
    from beatline_tasks.email.dispatch import PROCESS, run_id_of
    from beatline_tasks.email.leftover import end_leftover
    from beatline_tasks.email.processing import process

    user = dovecot.user()
    dovecot.deliver(user, mail("dead"), mail("waiting"))
    add_mailbox(user)
    poll(user)
    long_ago(installed)
    end_run(installed, run_id_of(rows()[0]["id"], PROCESS), "dead")
    assert end_leftover(installed) == {"processed": 0, "failed": 1}
    assert [(row["state"], row["error"]) for row in rows()] == [("failed", f"{PROCESS} ended as dead"), ("new", None)]
    assert process(installed, app, str(rows()[0]["id"])) == "processed"  # a person has it tried again


def test_a_message_is_handed_on_without_the_secrets_of_its_mailbox(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, make_settings: MakeSettings, app: Any
) -> None:
    from beatline.installation import Installation as Another
    from beatline_tasks.email.processing import process

    user = dovecot.user()
    dovecot.deliver(user, mail("one"))
    add_mailbox(user, on_message=TASK)
    poll(user)
    foreign = Another(make_settings(secret_keys="other:" + "A" * 43 + "="))
    assert process(foreign, app, str(rows()[0]["id"])) == f"handed to {TASK}"
    foreign.redis.close()


def test_an_end_waits_for_the_removal_of_its_mailbox_and_holds_nothing_meanwhile(
    dovecot: ImapServer, add_mailbox: Any, poll: Any, rows: Any, installed: Installation
) -> None:
    from beatline.definitions import store
    from beatline.ledger.database import sql
    from beatline.ledger.model import definitions
    from beatline_tasks.email.processing import finish
    from beatline_tasks.email.removal import removed

    user = dovecot.user()
    dovecot.deliver(user, mail("one"))
    box = add_mailbox(user, keep_raw="failed")
    poll(user)
    message_id = str(rows()[0]["id"])
    said: list[object] = []

    def end() -> None:
        try:
            said.append(finish(installed, message_id, "processed", None))
        except NotFoundError as exc:
            said.append(exc)

    def waiting() -> bool:
        with installed.engine.connect() as conn:
            waits = sql(
                conn, "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE NOT granted AND datname = current_database()"
            )  # fmt: skip
            return bool(said) or conn.execute(waits).first() is not None

    ending = threading.Thread(target=end)
    with installed.engine.begin() as conn:
        conn.execute(definitions.select().where(definitions.c.id == box.id).with_for_update())
        ending.start()
        wait_until(waiting, 10, what="the end waits")
        removed(conn, installed, box)
        store.remove(conn, "mailbox", user, who="test")
    ending.join()
    assert [type(one) for one in said] == [NotFoundError]
