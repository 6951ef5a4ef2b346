"""The third step: the files to the store, a word to the webhook, a mail to each recipient; every one has its own row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded

from beatline.artifacts import ArtifactStore
from beatline.clock import utc_now
from beatline.connections import get_connection
from beatline.errors import BeatlineError, ServiceError, TransientError
from beatline.failpoints import reach
from beatline.logs import get_logger
from beatline_tasks.report import deliveries, issues
from beatline_tasks.report.compose import CONTENT_TYPES
from beatline_tasks.report.deliveries import Channel, Delivery
from beatline_tasks.report.errors import ReportError
from beatline_tasks.report.mail import Attachment, Letter, build
from beatline_tasks.report.notice import domain_of, sender_of
from beatline_tasks.report.page import mail_page, mail_text
from beatline_tasks.report.post import post
from beatline_tasks.report.rendering import MAIL, PICTURE, MailContent
from beatline_tasks.report.template import fill

if TYPE_CHECKING:
    from beatline_tasks.report.spec import Email
    from beatline_tasks.report.steps import Work

_OTHER: Final = (MAIL, PICTURE)

log = get_logger(__name__)


def send(work: Work) -> dict[str, Any]:
    """Deliver what is not delivered yet. One that fails does not hold up the others.

    Raises TransientError if some may go later, ReportError if some will not; each row says why.
    """
    rows = deliveries.prepare(work.installation.engine, work.issue.id, _wanted(work))
    sending = _Sending(work)
    passing: list[str] = []
    strange: list[Exception] = []
    for channel in ("store", "webhook", "email"):
        mine = [row for row in rows if row.channel == channel]
        try:
            sending.channel(channel, mine)
        except (TransientError, ServiceError) as exc:
            passing.append(str(exc))
        except BeatlineError as exc:
            for row in mine:
                deliveries.refused(work.installation.engine, row, str(exc))
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:
            log.exception("report_channel_broke", report=work.issue.report, channel=channel)
            strange.append(exc)  # raised once the other channels had their turn
    if strange:
        raise strange[0]
    return _finish(work, {row.id for row in rows}, passing)


def _wanted(work: Work) -> list[tuple[Channel, str]]:
    report = work.report
    wanted: list[tuple[Channel, str]] = []
    if report.store is not None:
        wanted.append(("store", report.store.connection))
    if report.webhook is not None:
        # The path of such an address is often its secret.
        wanted.append(("webhook", urlsplit(report.webhook.url).hostname or "webhook"))
    if report.email is not None:
        wanted.extend(("email", address) for address in report.email.to)
    return wanted


def _finish(work: Work, ours: set[UUID], passing: list[str]) -> dict[str, Any]:
    engine = work.installation.engine
    with engine.connect() as conn:
        rows = [row for row in deliveries.of_issue(conn, work.issue.id) if row.id in ours]
    waiting = [row for row in rows if row.state == "pending"]
    failed = [row for row in rows if row.state not in ("pending", "sent")]
    if waiting:
        why = waiting[0].error or (passing[0] if passing else "it was not taken")
        raise TransientError(f"{len(waiting)} of {len(rows)} deliveries wait; {waiting[0].recipient}: {why}")
    if failed:
        first = failed[0]
        raise ReportError(
            f"{len(failed)} of {len(rows)} deliveries were not made; {first.recipient}: {first.state}: {first.error} "
            f"`beatline reports deliveries {work.issue.report}` shows all."
        )
    with engine.begin() as conn:
        issues.move(conn, work.issue, "sent", reason=None)
    reach("report.sent")
    return {"deliveries": len(rows)}


class _Sending:
    """One execution of the step: the artifacts it sends, and the links that the store gave."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._store = ArtifactStore.of(work.installation)
        self._files = [one for one in work.issue.files or () if one["role"] not in _OTHER]
        mail = next(one for one in work.issue.files or () if one["role"] == MAIL)
        self._content = MailContent.parse(self._read(mail))
        self._links: dict[str, str] = {}

    def channel(self, channel: Channel, rows: list[Delivery]) -> None:
        """Deliver the rows of one channel that wait. Raises BeatlineError if none of the rest can go."""
        if channel == "email":
            self._email(rows)
            return
        for row in rows:
            if channel == "store":
                self._shelve(row)
            else:
                self._call(row)

    def _read(self, file: Mapping[str, Any]) -> bytes:
        return self._store.read(self._work.installation.engine, UUID(file["artifact"]))

    @property
    def _values(self) -> dict[str, str]:
        facts, work = self._content.facts, self._work
        start, end = (
            moment.astimezone(work.report.zone).strftime("%Y-%m-%d")
            for moment in (work.issue.period_start, work.issue.period_end)
        )
        return {
            "report": facts.report,
            "title": facts.title,
            "period": facts.period,
            "period_start": start,
            "period_end": end,
            "date": start,
        }

    def _shelve(self, row: Delivery) -> None:
        from beatline_tasks.report.shelf import put_files

        shelf = self._work.report.store
        if shelf is None:
            return
        engine = self._work.installation.engine
        # Also what was sent before: the mails want its links. The same file in the same place is no second one.
        if row.state == "sent" or deliveries.claim(engine, row):
            self._links = put_files(self._work.installation, shelf, self._files, self._values, self._store,
                                    write=row.state != "sent")  # fmt: skip
            deliveries.sent(engine, row, f"{len(self._links)} files")

    def _call(self, row: Delivery) -> None:
        from beatline_tasks.report.webhook import call

        engine, webhook = self._work.installation.engine, self._work.report.webhook
        if webhook is None or row.state != "pending" or not deliveries.claim(engine, row):
            return
        reach("report.webhook_claimed")
        facts, issue = self._content.facts, self._work.issue
        said: dict[str, Any] = {
            "report": issue.report,
            "issue": str(issue.id),
            "title": facts.title,
            "period": facts.period,
            "period_start": issue.period_start.isoformat(),
            "period_end": issue.period_end.isoformat(),
            "text": mail_text(facts, self._content.sections, self._remarks([])),
            "rows": {section.name: section.total for section in self._content.sections},
            "files": [
                {"name": one["name"], "size_bytes": one["size_bytes"], "link": self._links.get(one["name"])}
                for one in self._files
            ],
        }
        answered = call(self._work.installation, webhook, said, key=str(row.id))
        if answered.ok:
            deliveries.sent(engine, row, answered.words)
        elif answered.passing:
            deliveries.later(engine, row, answered.words)
            raise TransientError(answered.words)
        else:
            deliveries.refused(engine, row, answered.words)

    def _email(self, rows: list[Delivery]) -> None:
        email, issue, installation = self._work.report.email, self._work.issue, self._work.installation
        if email is None or not any(row.state == "pending" for row in rows):
            return
        sender = sender_of(get_connection(installation, email.connection))
        rows = deliveries.with_message_ids(installation.engine, rows, domain_of(sender))
        letter = self._letter(email)
        headers = {"X-Beatline-Report": issue.report, "X-Beatline-Issue": str(issue.id)}

        def compose(row: Delivery) -> bytes:
            return build(
                letter, sender=sender, to=row.recipient, message_id=row.message_id or "", at=utc_now(),
                headers=headers,
            )  # fmt: skip

        post(installation, email.connection, sender, rows, compose)

    def _letter(self, email: Email) -> Letter:
        attached = self._attached(email)
        pictures = {
            str(one["name"]).removesuffix(".png"): self._read(one)
            for one in self._work.issue.files or ()
            if one["role"] == PICTURE
        }
        remarks = self._remarks([one["name"] for one in attached])
        facts, sections = self._content.facts, self._content.sections
        return Letter(
            subject=fill(email.subject, self._values),
            text=mail_text(facts, sections, remarks),
            html=mail_page(facts, sections, remarks, list(pictures)),
            pictures=pictures,
            attachments=[Attachment(one["name"], CONTENT_TYPES[one["role"]], self._read(one)) for one in attached],
        )

    def _attached(self, email: Email) -> list[Mapping[str, Any]]:
        """The wanted files, in order, as long as they fit."""
        formats = email.attach if email.attach is not None else self._work.report.formats
        room = email.max_attachment_bytes
        attached: list[Mapping[str, Any]] = []
        for one in self._files:
            if one["role"] in (*formats, "full") and one["size_bytes"] <= room:
                attached.append(one)
                room -= one["size_bytes"]
        return attached

    def _remarks(self, attached: list[str]) -> list[str]:
        remarks = [section.note for section in self._content.sections if section.note]
        if attached:
            remarks.append(f"Attached: {', '.join(attached)}.")
        for one in self._files:
            link = self._links.get(one["name"])
            if link is not None:
                remarks.append(f"{one['name']}: {link}")
            elif one["name"] not in attached:
                remarks.append(
                    f"{one['name']} ({one['size_bytes']:,} bytes) is not attached; it is kept as artifact "
                    f"{one['artifact']}, and `beatline reports files {self._work.issue.report}` gets it."
                )
        return remarks
