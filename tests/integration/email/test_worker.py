"""Mailboxes polled by real workers on threads, their messages handed to a user's task; and a worker that is killed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from beatline.ledger.history import Run, find_run
from beatline.ledger.states import RunState
from support.ledger import known_run
from support.mails import mail
from support.processes import StartProcess, StartWorker
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings
    from support.dovecot import ImapServer


@pytest.fixture
def mail_log(tmp_path: Path) -> Path:
    """Where the user's task writes which messages it got."""
    return tmp_path / "mail.log"


@pytest.fixture
def environment(mail_log: Path) -> dict[str, str]:
    """What the workers know beside the settings."""
    return {"TEST_MAIL_LOG": str(mail_log), "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def mail_settings(mail_settings: Settings) -> Settings:
    """The settings with the user's tasks."""
    return mail_settings.replaced(task_modules=("support.mail_tasks",))


def ended(installation: Installation, run_id: str) -> Run | None:
    """The run, if it has its end."""
    run = known_run(installation, run_id)
    return run if run is not None and run.ended_at else None


def test_a_worker_polls_and_hands_each_message_to_the_task_of_its_mailbox(
    dovecot: ImapServer,
    add_mailbox: Any,
    rows: Any,
    installed: Installation,
    app: Any,
    worker: StartWorker,
    recorder: StartProcess,
    mail_settings: Settings,
    environment: dict[str, str],
    mail_log: Path,
) -> None:
    read, refused, plain = (dovecot.user(name) for name in ("read", "refused", "plain"))
    for user in (read, refused, plain):
        dovecot.deliver(user, *(mail(f"{user} {n}") for n in range(3)))
    add_mailbox(read, on_message="test.read_mail", keep_raw="failed")
    add_mailbox(refused, on_message="test.refuse_mail", keep_raw="failed")
    add_mailbox(plain)
    recorder(settings=mail_settings)
    worker("email,workflow,default", pool="threads", concurrency=6, settings=mail_settings, env=environment)
    runs = [app.send_task("email.poll_account", (user,)).id for user in (read, refused, plain)]

    wanted = ["failed"] * 3 + ["processed"] * 6
    wait_until(lambda: sorted(row["state"] for row in rows()) == wanted, 40, what="every message has its end")
    by_end = {row["subject"].partition("-")[0]: row for row in rows()}
    assert (by_end["refused"]["state"], by_end["refused"]["error"]) == ("failed", "test.refuse_mail failed")
    assert by_end["refused"]["raw"] is not None
    assert by_end["read"]["raw"] is None  # kept only until it was processed
    got = mail_log.read_text().split()
    assert sorted(got) == sorted(str(row["id"]) for row in rows() if row["subject"].startswith("read"))
    for run_id in runs:
        run = wait_until(partial(ended, installed, run_id), 20, what="the poll ends")
        assert run is not None
        assert (run.state, run.queue) == (RunState.SUCCEEDED, "email")
        assert "'new': 3" in str(run.result)


@pytest.mark.proof
def test_a_worker_that_dies_before_it_queues_what_it_stored_leaves_that_to_a_recorder(
    dovecot: ImapServer,
    add_mailbox: Any,
    rows: Any,
    installed: Installation,
    app: Any,
    worker: StartWorker,
    recorder: StartProcess,
    mail_settings: Settings,
    environment: dict[str, str],
    mail_log: Path,
) -> None:
    from beatline.engine.given_ids import on_behalf_of_a_run
    from beatline_tasks.email.dispatch import PROCESS, run_id_of

    user = dovecot.user()
    dovecot.deliver(user, mail("one"), mail("two"))
    add_mailbox(user, on_message="test.read_mail")
    dying = environment | {"BEATLINE_TEST_FAILPOINT": "email.stored"}
    first = worker("email", pool="threads", settings=mail_settings, env=dying)
    app.send_task("email.poll_account", (user,))
    assert first.wait() != 0
    assert [(row["state"], row["sent_on_at"] is None) for row in rows()] == [("new", False)] * 2
    with installed.engine.connect() as conn:  # committed with the messages
        made = [find_run(conn, run_id_of(row["id"], PROCESS)) for row in rows()]
    assert [(run.state, run.queue) for run in made] == [(RunState.ACCEPTED, "workflow")] * 2
    assert all(run.queued_at is None for run in made)

    recorder(settings=mail_settings)  # no poll comes by again
    worker("email,workflow,default", pool="threads", concurrency=4, settings=mail_settings, env=environment)
    wait_until(lambda: [row["state"] for row in rows()] == ["processed"] * 2, 40, what="both are processed")
    sent = [row["id"] for row in rows()]
    for message_id in sent:  # sent once more, as after a crash behind the sending: it is the same run
        with on_behalf_of_a_run():
            app.send_task(PROCESS, (str(message_id),), task_id=run_id_of(message_id, PROCESS))
    last = app.send_task("email.process_message", (str(sent[0]),)).id
    run = wait_until(lambda: ended(installed, last), 20, what="one more is told that it is processed")
    assert run is not None
    assert "processed already" in str(run.result)
    assert sorted(mail_log.read_text().split()) == sorted(map(str, sent))
