"""The demo's second half, from rows to a mail and back: job, report, SMTP, twenty mailboxes, polling, attachment.

It uses what a person would: connections, definitions, the schedules that `beatline mailboxes sync` keeps, and a chain of
two tasks. What came of it is counted in the mail server itself, and in the files.
"""

from __future__ import annotations

import hashlib
import imaplib
import re
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from celery import chain
from sqlalchemy import Connection, func, select

from beatline.app import create_app
from beatline.definitions import specs
from beatline.definitions import store as definitions
from beatline.families import kinds
from beatline.ledger.database import sql
from beatline.ledger.model import runs
from beatline.schedules import store as schedules
from beatline_tasks.demo.circle_verdict import Circle
from beatline_tasks.demo.months import MONTHS, PERIOD_END, Month, job_spec, monthly, report_spec
from beatline_tasks.demo.weather import Day
from beatline_tasks.email.tables import attachments, messages
from beatline_tasks.report.tables import report_deliveries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beatline.installation import Installation
    from beatline_tasks.demo.mail import MailServers

JOB: Final = "monthly"
REPORT: Final = "seattle"
RECIPIENT: Final = "demo07"
CHECK: Final = "demo.check_report"
POLL_EVERY_S: Final = 2.0
_WHO: Final = "demo"
_SMTP, _SHELF = "post", "shelf"
_CHECKED: Final = re.compile(r"([0-9a-f]{64})=(\d+)")


class PostRound:
    """Sends the report on its way, and sees whether it came back."""

    def __init__(self, installation: Installation, servers: MailServers, shelf: Path, days: Sequence[Day]) -> None:
        self._installation, self._servers, self._days = installation, servers, days
        self.shelf = shelf

    def begin(self) -> None:
        """Define everything, and send the chain of job and report."""
        ours = self._installation
        recipient = self._servers.address_of(RECIPIENT)
        self._define("connection", _SMTP, self._smtp_spec())
        self._define("connection", _SHELF, {"url": self.shelf.resolve().as_uri()})
        self._define("job", JOB, job_spec())
        self._define("report", REPORT, report_spec(recipient, smtp=_SMTP, shelf=_SHELF))
        for name in self._servers.mailboxes:
            self._define("mailbox", name, self._mailbox_spec(name))
        kinds()["mailbox"].load_action("sync")(ours)
        app = create_app(ours.settings)
        steps = [app.signature("etl.run_job", args=(JOB,), immutable=True),
                 app.signature("report.generate_scheduled", args=(REPORT, PERIOD_END), immutable=True)]  # fmt: skip
        chain(*steps).apply_async()

    def is_over(self) -> bool:
        """Whether the mail was found, and the run that checks it has ended."""
        with self._installation.engine.connect() as conn:
            states = conn.execute(select(messages.c.state)).scalars().all()
        return bool(states) and all(state in ("processed", "failed") for state in states)

    def end(self) -> None:
        """Let no further poll come due."""
        with self._installation.engine.begin() as conn:
            for schedule in schedules.list_schedules(conn):
                if schedule.task == "email.poll_account" and schedule.paused_at is None:
                    schedules.pause(conn, schedule.name, who=_WHO, reason="the mail was found")

    def count(self) -> Circle:
        """What there is to count, in the data base, in the mail server and in the files."""
        with self._installation.engine.connect() as conn:
            return Circle(
                expected=monthly(self._days),
                months=stored_months(conn),
                posted=self._posted(),
                deliveries=_deliveries(conn),
                messages=Counter(str(state) for state in conn.execute(select(messages.c.state)).scalars()),
                on_shelf={path.name: _sha256(path) for path in sorted(self.shelf.iterdir()) if path.is_file()},
                attached=list(conn.execute(select(attachments.c.sha256)).scalars()),
                checked=_checked(conn),
                polls=_polls(conn),
            )

    def _posted(self) -> dict[str, int]:
        """How many messages lie in each mailbox, as its server says."""
        found: dict[str, int] = {}
        for mailbox in self._servers.mailboxes:
            client = imaplib.IMAP4(self._servers.imap_host, self._servers.imap_port, 20)
            try:
                client.login(mailbox, self._servers.imap_password)
                _, answer = client.select("INBOX", readonly=True)
                found[mailbox] = int(answer[0] or 0)
            finally:
                client.logout()
        return found

    def _define(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        ours = self._installation
        checked = specs.check(kinds()[kind], name, spec)
        with ours.engine.begin() as conn:
            definitions.add(conn, kind, name, checked, lambda: ours.keyring, who=_WHO)

    def _smtp_spec(self) -> Mapping[str, Any]:
        servers = self._servers
        return {
            "url": servers.smtp_url,
            "security": "plain",
            "user": servers.smtp_user,
            "password": servers.smtp_password,
            "sender": servers.address_of("reports"),
        }

    def _mailbox_spec(self, name: str) -> Mapping[str, Any]:
        servers = self._servers
        return {
            "host": servers.imap_host,
            "port": servers.imap_port,
            "security": "plain",
            "user": name,
            "password": servers.imap_password,
            "interval_s": POLL_EVERY_S,
            "on_message": CHECK,
        }


def stored_months(conn: Connection) -> dict[date, Month]:
    """The rows that the job has made."""
    if conn.execute(sql(conn, "SELECT to_regclass('{data}.NAME')".replace("NAME", MONTHS))).scalar() is None:
        return {}
    fields = ", ".join(Month.__slots__)
    rows = conn.execute(sql(conn, f"SELECT month, {fields} FROM {{data}}.{MONTHS}"))  # noqa: S608  # our own names
    return {row["month"]: Month(**{name: row[name] for name in Month.__slots__}) for row in rows.mappings()}


def _deliveries(conn: Connection) -> Counter[str]:
    query = select(report_deliveries.c.channel, report_deliveries.c.state)
    return Counter(f"{row.channel} {row.state}" for row in conn.execute(query))


def _checked(conn: Connection) -> dict[str, int]:
    """What the task of the mailbox found: the workbooks' hashes and how many rows each has."""
    found: dict[str, int] = {}
    query = select(runs.c.result).where(runs.c.task == CHECK, runs.c.state == "succeeded")
    for result in conn.execute(query).scalars():
        found |= {digest: int(rows) for digest, rows in _CHECKED.findall(str(result))}
    return found


def _polls(conn: Connection) -> int:
    query = select(func.count()).select_from(runs).where(runs.c.task == "email.poll_account")
    return int(conn.execute(query.where(runs.c.state == "succeeded")).scalar_one())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
