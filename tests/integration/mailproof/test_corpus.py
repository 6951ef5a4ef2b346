"""Hostile mail of every kind, on real servers, through real workers: all of it ends stored or quarantined, once.

Beside each mailbox's hostile mail lies an ordinary message that came last: it must be stored, whatever came before it.
CORPUS_TABLE names a file for the table of kinds.
"""

from __future__ import annotations

import imaplib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text

from beatline.app import create_app
from beatline.definitions import specs, store
from beatline.families import kinds
from beatline.installation import Installation
from support.apps import close
from support.corpus import KINDS, Outcome
from support.corpus_writing import mail
from support.mailing import PYMAP_USERS
from support.waiting import wait_until

if TYPE_CHECKING:
    from celery import Celery

    from beatline_tasks.demo.inbox import Pymap
    from support.dovecot import ImapServer
    from support.processes import StartProcess, StartWorker
    from support.serving import MakeSettings

TABLE: Final = "CORPUS_TABLE"
LAST: Final = "the last one in the box"
POLLS_S: Final = 240.0
PYMAP_BYTES: Final = 20_000
"""What is larger, pymap's own parser takes a minute over, and serves nobody meanwhile."""

pytestmark = pytest.mark.proof


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a mailbox's messages."""

    ingested: int
    quarantined: int
    last_ingested: bool


class Polls:
    """Mailboxes of this test, and polls of them by a real worker."""

    def __init__(self, installation: Installation, app: Celery) -> None:
        self._installation, self._app = installation, app
        self._ids: dict[str, Any] = {}

    def add(self, name: str, **spec: Any) -> None:
        """Define a mailbox."""
        checked = specs.check(kinds()["mailbox"], name, {"security": "plain", "timeouts": {"read_s": 60}} | spec)
        ours = self._installation
        with ours.engine.begin() as conn:
            self._ids[name] = store.add(conn, "mailbox", name, checked, lambda: ours.keyring, who="test").id

    def all_end(self) -> None:
        """Poll every mailbox once, and wait until each run has succeeded."""
        runs = [str(self._app.send_task("email.poll_account", (str(one),)).id) for one in self._ids.values()]

        def ended() -> bool:
            states = self._rows("SELECT state, error FROM beatline.runs WHERE id = ANY(:ids)", ids=runs)
            failed = [row for row in states if row["state"] in ("failed", "dead", "cancelled")]
            if failed:
                raise RuntimeError(f"polls failed: {failed[:3]}")
            return [row["state"] for row in states] == ["succeeded"] * len(runs)

        wait_until(ended, POLLS_S, every_s=0.2, what="every poll has succeeded")

    def counted(self) -> dict[str, Counted]:
        """What is stored now, by mailbox."""
        ingested = self._by_mailbox("SELECT mailbox, count(*) FROM beatline.email_messages GROUP BY mailbox")
        quarantined = self._by_mailbox("SELECT mailbox, count(*) FROM beatline.email_quarantine GROUP BY mailbox")
        last = self._by_mailbox(
            "SELECT mailbox, count(*) FROM beatline.email_messages WHERE subject = :last GROUP BY mailbox", last=LAST
        )
        return {
            name: Counted(ingested.get(one, 0), quarantined.get(one, 0), last.get(one) == 1)
            for name, one in self._ids.items()
        }

    def safe_names(self) -> list[str]:
        """The names that attachments were given."""
        return [str(row["name"]) for row in self._rows("SELECT name FROM beatline.email_attachments")]

    def _by_mailbox(self, statement: str, **values: Any) -> dict[Any, int]:
        return {row["mailbox"]: int(row["count"]) for row in self._rows(statement, **values)}

    def _rows(self, statement: str, **values: Any) -> Sequence[Mapping[Any, Any]]:
        with self._installation.engine.connect() as conn:
            return conn.execute(text(statement), values).mappings().all()


@pytest.fixture
def polls(make_settings: MakeSettings, worker: StartWorker, recorder: StartProcess) -> Iterator[Polls]:
    settings = make_settings(allow_private_addresses=True, email_connections_per_host=8)
    recorder(settings=settings)
    worker("email", pool="threads", concurrency=4, settings=settings)
    app = create_app(settings)
    installation = Installation(settings)
    yield Polls(installation, app)
    close(app)
    installation.redis.close()


@pytest.mark.timeout(600)
def test_every_message_ends_stored_or_quarantined_and_none_stops_its_mailbox(dovecot: ImapServer, polls: Polls) -> None:
    held: dict[str, int] = {}
    for number, kind in enumerate(KINDS):
        name, user = f"kind{number:02}", dovecot.user("corpus")
        messages = kind.make()
        dovecot.deliver(user, *messages, mail(b"ordinary", b"Subject: " + LAST.encode()))
        held[name] = len(messages)
        polls.add(name, host=dovecot.host, port=dovecot.port, user=user, password=dovecot.password)
    polls.all_end()
    first = polls.counted()
    polls.all_end()
    show(table(held, first))
    outcomes: dict[str, Outcome] = {f"kind{number:02}": kind.outcome for number, kind in enumerate(KINDS)}
    wrong = {
        KINDS[int(name[4:])].name: one
        for name, one in first.items()
        if not one.last_ingested or not as_expected(one, held[name], outcomes[name])
    }
    assert not wrong
    assert polls.counted() == first, "polling again stored something again"
    assert not [name for name in polls.safe_names() if unsafe(name)]


@pytest.mark.timeout(600)
def test_on_another_make_of_server_too(pymap: Pymap, polls: Polls) -> None:
    held = dict.fromkeys(PYMAP_USERS, 0)
    boxes: dict[str, list[bytes]] = {user: [] for user in PYMAP_USERS}
    for number, kind in enumerate(KINDS):
        boxes[PYMAP_USERS[number % len(PYMAP_USERS)]] += [raw for raw in kind.make() if len(raw) < PYMAP_BYTES]
    for user, messages in boxes.items():
        held[user] = appended(pymap, user, messages)
        assert appended(pymap, user, [mail(b"ordinary", b"Subject: " + LAST.encode())]) == 1
        polls.add(user, host=pymap.host, port=pymap.port, user=user, password="secret")
    polls.all_end()
    first = polls.counted()
    polls.all_end()
    assert sum(held.values()) > 200, "pymap held too few of them to prove anything"
    assert {name: one.ingested + one.quarantined for name, one in first.items()} == {
        name: number + 1 for name, number in held.items()
    }
    assert all(one.last_ingested for one in first.values())
    assert polls.counted() == first


def appended(server: Pymap, user: str, messages: Sequence[bytes]) -> int:
    """How many of the messages the server took: some it cannot hold."""
    taken, client = 0, logged_in(server, user)
    for raw in messages:
        try:
            taken += client.append("INBOX", "", "", raw)[0] == "OK"
        except imaplib.IMAP4.error:
            client.shutdown()
            client = logged_in(server, user)
    client.logout()
    return taken


def logged_in(server: Pymap, user: str) -> imaplib.IMAP4:
    client = imaplib.IMAP4(server.host, server.port, 20)
    client.login(user, "secret")
    return client


def as_expected(one: Counted, held: int, outcome: Outcome) -> bool:
    """Whether every message is somewhere, and where it belongs. The ordinary one is counted with them."""
    if one.ingested + one.quarantined != held + 1:
        return False
    return outcome == "either" or one.quarantined == (held if outcome == "quarantined" else 0)


def unsafe(name: str) -> bool:
    """Whether a name would be trouble as a file's name."""
    return (
        not name.strip(" .")
        or len(name.encode()) > 255
        or any(char in name for char in '/\\:\x00\n\r\u202e<>|"')
        or name.split(".")[0].upper() in {"CON", "NUL", "AUX", "COM1", "LPT9"}
    )


def table(held: Mapping[str, int], counted: Mapping[str, Counted]) -> str:
    """Kinds, and what became of them; the ordinary message of each mailbox is left out."""
    lines = ["| kind | messages | ingested | quarantined |", "|---|---:|---:|---:|"]
    totals = [0, 0, 0]
    for number, kind in enumerate(KINDS):
        name = f"kind{number:02}"
        row = (held[name], counted[name].ingested - counted[name].last_ingested, counted[name].quarantined)
        lines.append(f"| {kind.name} | {row[0]} | {row[1]} | {row[2]} |")
        totals = [total + one for total, one in zip(totals, row, strict=True)]
    lines.append(f"| **{len(KINDS)} kinds** | {totals[0]} | {totals[1]} | {totals[2]} |")
    return "\n".join(lines) + "\n"


def show(text: str) -> None:
    """Print the table, and write it where the environment says."""
    sys.stdout.write(text)
    path = os.environ.get(TABLE)
    if path:
        Path(path).write_text(text, encoding="utf-8")
