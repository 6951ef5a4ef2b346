"""One APScheduler process that polls mailboxes with plain imap-tools into PostgreSQL, as such programs are written.

`python -m bench.mail_competitor FILE`, where FILE is JSON. What is done for it, so that it is no straw man: everything is
imported and every thread has its database connection before time starts; a poll is one connection, one SEARCH and one
FETCH for all messages; rows and cursor of a poll are one statement each, in one transaction. What it does not do: leases,
a history, attachments, quarantine, telling errors apart. It prints `ready SECONDS`: the monotonic time when all is due.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import psycopg2
from imap_tools.mailbox import MailBoxUnencrypted
from imap_tools.query import AND, U
from psycopg2 import extras

from beatline.clock import monotonic_s, utc_now

_extras: Any = extras  # partly untyped, and APScheduler is so as a whole
_scheduling: Any = import_module("apscheduler.schedulers.background")
_pools: Any = import_module("apscheduler.executors.pool")

TABLES: Final = """
CREATE TABLE IF NOT EXISTS competitor_messages (
    mailbox text, uid bigint, message_id text, subject text, sender text, recipients text[], sent_at timestamptz,
    size_bytes bigint, body_text text, body_html text, PRIMARY KEY (mailbox, uid));
CREATE TABLE IF NOT EXISTS competitor_cursors (mailbox text PRIMARY KEY, uid bigint NOT NULL);
"""
LEAD_S: Final = 1.0
TIMEOUT_S: Final = 60.0
INTERVAL_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Given:
    """What the file says."""

    database_url: str
    host: str
    port: int
    password: str
    users: list[str]
    warm_users: list[str]
    threads: int


class Poller:
    """Polls one mailbox at a time in each thread."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._local = threading.local()

    def poll(self, user: str) -> None:
        """Store what is new."""
        connection = self._connection()
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT uid FROM competitor_cursors WHERE mailbox = %s", (user,))
            found = cursor.fetchone()
        last = int(found[0]) if found else 0
        rows = self._new_messages(user, last)
        if not rows:
            return
        with connection, connection.cursor() as cursor:
            _extras.execute_values(cursor, "INSERT INTO competitor_messages VALUES %s ON CONFLICT DO NOTHING", rows)
            cursor.execute(
                "INSERT INTO competitor_cursors VALUES (%s, %s) ON CONFLICT (mailbox) DO UPDATE SET uid = excluded.uid",
                (user, max(row[1] for row in rows)),
            )

    def _new_messages(self, user: str, last: int) -> list[tuple[Any, ...]]:
        given = self._given
        with MailBoxUnencrypted(given.host, given.port, timeout=TIMEOUT_S).login(user, given.password) as mailbox:
            criteria = AND(uid=U(str(last + 1), "*"))
            return [
                (user, int(one.uid), cast("Any", one.headers).get("message-id", ("",))[0], one.subject, one.from_, list(one.to),
                 one.date, one.size_rfc822, one.text, one.html)
                for one in mailbox.fetch(criteria, mark_seen=False, bulk=True)
                if one.uid is not None and int(one.uid) > last
            ]  # fmt: skip

    def _connection(self) -> Any:
        if not hasattr(self._local, "connection"):
            self._local.connection = psycopg2.connect(self._given.database_url)
        return self._local.connection


def warm_up(scheduler: Any, poll: Callable[[str], None], users: list[str]) -> None:
    """Let every thread poll an empty mailbox."""
    left = threading.Semaphore(0)

    def once(user: str) -> None:
        try:
            poll(user)
        finally:
            left.release()

    for user in users:
        scheduler.add_job(once, args=(user,))
    for _ in users:
        left.acquire()


def main(file: str) -> None:
    """Warm up, say when all is due, and poll until ended."""
    given = Given(**cast("dict[str, Any]", json.loads(Path(file).read_text(encoding="utf-8"))))
    poller = Poller(given)
    scheduler = _scheduling.BackgroundScheduler(
        executors={"default": _pools.ThreadPoolExecutor(given.threads)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone="UTC",
    )
    scheduler.start()
    warm_up(scheduler, poller.poll, given.warm_users)
    due_s, due = monotonic_s() + LEAD_S, utc_now() + timedelta(seconds=LEAD_S)
    for user in given.users:
        scheduler.add_job(poller.poll, "interval", args=(user,), seconds=INTERVAL_S, next_run_time=due)
    sys.stdout.write(f"ready {due_s}\n")
    sys.stdout.flush()
    while True:
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main(sys.argv[1])
