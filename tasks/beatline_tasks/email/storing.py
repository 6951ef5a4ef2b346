"""A batch of messages into PostgreSQL, with the runs that process them and the cursor that says so, in one transaction.

Files come first, since a file without a row is swept away and a row without its file would be a loss. Nothing is stored
twice: a message that stands under its UID, or after a renumbering under its content, is left as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError, NotSupportedError, ProgrammingError

from beatline.artifacts import ArtifactStore, Stored
from beatline.clock import utc_now
from beatline.datasets.columns import clean_text
from beatline.definitions import store
from beatline.engine.messages import StoredMessage
from beatline.errors import BeatlineError
from beatline.ledger.database import sqlstate
from beatline_tasks.email import cursor
from beatline_tasks.email.database import transaction, turn
from beatline_tasks.email.dispatch import accept, runs_of
from beatline_tasks.email.reading import Mail
from beatline_tasks.email.tables import attachments, messages, quarantine

if TYPE_CHECKING:
    from celery import Celery

    from beatline.definitions import Definition
    from beatline.installation import Installation
    from beatline_tasks.email.lock import MailboxLock
    from beatline_tasks.email.mailbox import Mailbox
    from beatline_tasks.email.parse import Attachment

FAMILY = "email"
_REFUSALS = (DataError, IntegrityError, ProgrammingError, InternalError, NotSupportedError)
_TOO_MUCH = "54"
"""The class of SQLSTATEs for a row that is larger than PostgreSQL, or one of its indexes, takes."""
_REASON_CHARS = 500
_PUT = pg_insert(messages).on_conflict_do_nothing().returning(messages.c.id)
"""With rows as parameters, not as part of the statement: that would be compiled anew for every batch."""


@dataclass(slots=True)
class Tally:
    """What became of the messages of a poll."""

    new: int = 0
    known: int = 0
    oversize: int = 0
    quarantined: int = 0

    def __iadd__(self, other: Tally) -> Self:
        self.new += other.new
        self.known += other.known
        self.oversize += other.oversize
        self.quarantined += other.quarantined
        return self


@dataclass(frozen=True, slots=True)
class Filed:
    """A message with its files in the artifact store."""

    mail: Mail
    raw: Stored | None
    files: tuple[tuple[Attachment, Stored | None], ...] = ()
    id: UUID = field(default_factory=uuid4)
    stored_at: datetime = field(default_factory=utc_now)


@dataclass(slots=True)
class Taken:
    """What a batch came to: runs that stand and are to be published, new messages of which no run could be made."""

    tally: Tally = field(default_factory=Tally)
    runs: list[StoredMessage] = field(default_factory=list[StoredMessage])
    unsent: list[UUID] = field(default_factory=list[UUID])

    def __iadd__(self, other: Taken) -> Self:
        self.tally += other.tally
        self.runs += other.runs
        self.unsent += other.unsent
        return self


class _Unsendable(Exception):
    """Runs of new messages were refused."""


class Storer:
    """Stores the messages of one folder of one mailbox; with an app, and the runs that process them."""

    def __init__(
        self,
        installation: Installation,
        definition: Definition,
        mailbox: Mailbox,
        folder: str,
        lock: MailboxLock,
        app: Celery | None = None,
    ) -> None:
        self._installation, self._definition, self._mailbox = installation, definition, mailbox
        self._folder, self._lock, self._app = folder, lock, app
        self._files = ArtifactStore.of(installation)

    def store(self, mails: Sequence[Mail], position: cursor.Position, *, rematching: bool = False) -> Taken:
        """The messages, the runs of what is new, and the position after them. Raises NotFoundError if the mailbox is gone.

        `rematching`: they may be known under other UIDs.
        """
        filed = [self._file(mail) for mail in mails]
        try:
            return self._commit(filed, position, rematching)
        except DBAPIError as exc:
            if not _refused(exc):
                raise
            if len(mails) > 1:  # one of them spoils the others: each by itself
                return self._one_by_one(mails, position, rematching)
            if not mails:
                raise
            return self._commit([self._set_aside(mails[0], exc)], position, rematching)

    def release(self, mail: Mail, uidvalidity: int, quarantine_id: UUID, raw: UUID) -> str | None:
        """Store a message of the quarantine, and take it out of there; why not, if PostgreSQL refuses it."""
        filed = self._file(mail)
        self._lock.check()
        try:
            with transaction(self._installation) as conn:
                store.load_state(conn, self._definition, lock=True)  # a mailbox that is gone takes nothing in
                self._insert(conn, [filed], cursor.Position(uidvalidity))
                conn.execute(delete(quarantine).where(quarantine.c.id == quarantine_id))
                self._files.remove(conn, raw)
        except DBAPIError as exc:
            if not _refused(exc):
                raise
            return _refusal(exc)
        return None

    def _one_by_one(self, mails: Sequence[Mail], position: cursor.Position, rematching: bool) -> Taken:
        taken = Taken()
        for number, mail in enumerate(mails, 1):
            reached = position if number == len(mails) else replace(position, uid=mail.uid)
            taken += self.store([mail], reached, rematching=rematching)
        return taken

    def _set_aside(self, mail: Mail, exc: Exception) -> Filed:
        return self._file(replace(mail, parsed=None, raw=mail.raw or b"", reason=_refusal(exc)))

    def _file(self, mail: Mail) -> Filed:
        """Bring its files into the store."""
        if mail.parsed is None:
            return Filed(mail, self._write(mail.raw or b""))
        keep = self._mailbox.keep_raw != "never" and mail.raw is not None
        limit = self._mailbox.max_attachment_bytes
        files = [(one, self._write(one.data) if len(one.data) <= limit else None) for one in mail.parsed.attachments]
        return Filed(mail, self._write(mail.raw or b"") if keep else None, tuple(files))

    def _write(self, data: bytes) -> Stored:
        with turn():
            return self._files.write(data)

    def _commit(self, filed: Sequence[Filed], position: cursor.Position, rematching: bool) -> Taken:
        if self._app is not None:
            # Refused runs keep no message out: it is stored unsent, and sending it then says what is wrong.
            with suppress(_Unsendable):
                return self._commit_with(self._runs(self._app, filed), filed, position, rematching)
        return self._commit_with({}, filed, position, rematching)

    def _runs(self, app: Celery, filed: Sequence[Filed]) -> dict[UUID, StoredMessage]:
        stored = {one.id: one.stored_at for one in filed if one.mail.parsed is not None}
        try:
            return dict(zip(stored, runs_of(app, stored), strict=True))
        except BeatlineError as exc:
            raise _Unsendable from exc

    def _commit_with(
        self, runs: Mapping[UUID, StoredMessage], filed: Sequence[Filed], position: cursor.Position, rematching: bool
    ) -> Taken:
        self._lock.check()
        tally = Tally()
        with transaction(self._installation) as conn:
            state = store.load_state(conn, self._definition, lock=True)
            known = self._rematch(conn, filed, position) if rematching else set[int]()
            fresh = [one for one in filed if one.mail.uid not in known]
            readable = [one for one in fresh if one.mail.parsed is not None]
            ids = self._insert(conn, readable, position, sent_on_at=utc_now() if runs else None)
            new = [one.id for one in readable if one.id in ids]
            self._accept(conn, [runs[message_id] for message_id in new if runs])
            tally.quarantined = self._quarantine(conn, [one for one in fresh if one.mail.parsed is None], position)
            store.save_state(conn, self._definition, cursor.with_position(state, self._folder, position))
        tally.new, tally.known = len(ids), len(filed) - len(ids) - tally.quarantined
        tally.oversize = sum(1 for one in readable if one.id in ids and one.mail.oversize)
        return Taken(tally, [runs[message_id] for message_id in new]) if runs else Taken(tally, unsent=new)

    def _accept(self, conn: Connection, runs: Sequence[StoredMessage]) -> None:
        try:
            accept(conn, self._installation, runs)
        except (DBAPIError, BeatlineError) as exc:  # not of a message, which would be set aside for it
            if isinstance(exc, DBAPIError) and not _refused(exc):
                raise
            raise _Unsendable from exc

    def _insert(
        self, conn: Connection, filed: Sequence[Filed], position: cursor.Position, sent_on_at: datetime | None = None
    ) -> set[UUID]:
        """The rows of messages; the ids of those that did not stand there yet."""
        if not filed:
            return set()
        rows = [{**self._row(one, position), "sent_on_at": sent_on_at} for one in filed]
        ids = set(conn.execute(_PUT, rows).scalars())
        files: list[dict[str, Any]] = []
        for one in filed:
            if one.id not in ids:
                continue
            if one.raw is not None:
                raw = self._record(conn, one.raw, "message.eml", "message/rfc822")
                conn.execute(update(messages).where(messages.c.id == one.id).values(raw=raw))
            files += self._attachment_rows(conn, one)
        if files:
            conn.execute(insert(attachments), files)
        return ids

    def _row(self, one: Filed, position: cursor.Position) -> dict[str, Any]:
        parsed = one.mail.parsed
        assert parsed is not None  # noqa: S101  # the caller has seen to it
        return {
            **self._key(one.mail, position),
            "id": one.id,
            "message_id": parsed.message_id,
            "subject": parsed.subject,
            "sender": parsed.sender,
            "recipients": list(parsed.recipients),
            "sent_at": parsed.sent_at,
            "auto_submitted": parsed.auto_submitted,
            "bounce": parsed.bounce,
            "oversize": one.mail.oversize,
            "body_text": parsed.text,
            "body_html": parsed.html,
            "state": "new",
            "stored_at": one.stored_at,
        }

    def _attachment_rows(self, conn: Connection, one: Filed) -> list[dict[str, Any]]:
        return [
            {
                "message": one.id,
                "number": number,
                "name": attachment.name,
                "content_type": attachment.content_type,
                "content_id": attachment.content_id,
                "size_bytes": len(attachment.data),
                "sha256": stored.sha256 if stored else hashlib.sha256(attachment.data).hexdigest(),
                "artifact": self._record(conn, stored, attachment.name, attachment.content_type) if stored else None,
            }
            for number, (attachment, stored) in enumerate(one.files, 1)
        ]

    def _quarantine(self, conn: Connection, filed: Sequence[Filed], position: cursor.Position) -> int:
        count = 0
        for one in filed:
            if one.raw is None:
                continue
            row = {**self._key(one.mail, position), "id": one.id, "reason": one.mail.reason, "at": utc_now()}
            row["raw"] = self._record(conn, one.raw, "unreadable.eml", "message/rfc822")
            put = pg_insert(quarantine).values(row).on_conflict_do_nothing()
            if conn.execute(put).rowcount:
                count += 1
            else:
                self._files.remove(conn, row["raw"])
        return count

    def _key(self, mail: Mail, position: cursor.Position) -> dict[str, Any]:
        return {
            "mailbox": self._definition.id,
            "folder": self._folder,
            "uidvalidity": position.uidvalidity,
            "uid": mail.uid,
            "received_at": mail.received_at,
            "size_bytes": mail.size_bytes,
            "content_hash": mail.content_hash,
        }

    def _record(self, conn: Connection, stored: Stored, name: str, content_type: str) -> UUID:
        return self._files.record(conn, stored, name=name, content_type=content_type, family=FAMILY)

    def _rematch(self, conn: Connection, filed: Sequence[Filed], position: cursor.Position) -> set[int]:
        """Give rows of the same content their new UIDs; the UIDs that were known."""
        known: set[int] = set()
        for table in (messages, quarantine):
            t = table.c
            ours = (t.mailbox == self._definition.id, t.folder == self._folder, t.uidvalidity != position.uidvalidity)
            hashes = {one.mail.content_hash for one in filed}
            query = select(t.id, t.content_hash).where(*ours, t.content_hash.in_(hashes)).order_by(t.uid)
            waiting: dict[str, list[UUID]] = {}
            for row_id, content_hash in conn.execute(query):
                waiting.setdefault(content_hash, []).append(row_id)
            for one in filed:
                if one.mail.uid not in known and waiting.get(one.mail.content_hash):
                    row_id = waiting[one.mail.content_hash].pop(0)
                    values = {"uidvalidity": position.uidvalidity, "uid": one.mail.uid}
                    conn.execute(update(table).where(t.id == row_id).values(values))
                    known.add(one.mail.uid)
        return known


def _refused(exc: DBAPIError) -> bool:
    """Whether PostgreSQL does not take a row; all else is about the connection or the server."""
    return isinstance(exc, _REFUSALS) or (sqlstate(exc) or "").startswith(_TOO_MUCH)


def _refusal(exc: Exception) -> str:
    return clean_text(f"it cannot be stored: {exc.args[0] if exc.args else type(exc).__name__}")[:_REASON_CHARS]


def renumber(conn: Connection, matches: dict[int, UUID], uidvalidity: int) -> None:
    """Give stored messages the UIDs that a server has given them anew."""
    for uid, row_id in matches.items():
        conn.execute(update(messages).where(messages.c.id == row_id).values(uidvalidity=uidvalidity, uid=uid))


def stored_elsewhere(
    conn: Connection, mailbox: UUID, folder: str, uidvalidity: int, message_ids: set[str]
) -> list[tuple[UUID, str | None]]:
    """Messages of a folder that still stand under another UIDVALIDITY, by Message-ID."""
    t = messages.c
    ours = (t.mailbox == mailbox, t.folder == folder, t.uidvalidity != uidvalidity, t.message_id.in_(message_ids))
    return [(row_id, message_id) for row_id, message_id in conn.execute(select(t.id, t.message_id).where(*ours))]


def known_uids(conn: Connection, mailbox: UUID, folder: str, uidvalidity: int, uids: Sequence[int]) -> set[int]:
    """Which of these UIDs are stored or in quarantine already."""
    found: set[int] = set()
    for table in (messages, quarantine):
        t = table.c
        query = select(t.uid).where(
            t.mailbox == mailbox, t.folder == folder, t.uidvalidity == uidvalidity, t.uid.in_(uids)
        )
        found |= set(conn.execute(query).scalars())
    return found
