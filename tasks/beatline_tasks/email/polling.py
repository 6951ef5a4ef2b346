"""One poll of a mailbox: what is new in its folders into the database, then on its way to be processed.

What is committed together: messages, the runs that process them, and the cursor that says they are stored. A poll that
is killed anywhere goes on from the last batch. No transaction is open, and no other mailbox waits, while a server is slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from beatline.clock import utc_now
from beatline.definitions import Definition, store
from beatline.definitions.opening import open_definition
from beatline.errors import AddressRefusedError
from beatline.failpoints import reach
from beatline.ledger.database import guarded
from beatline.logs import get_logger
from beatline_tasks.email import accounts, careful, cursor
from beatline_tasks.email.budget import READING
from beatline_tasks.email.careful import Stuck
from beatline_tasks.email.cursor import Position
from beatline_tasks.email.database import transaction
from beatline_tasks.email.dispatch import publish, send_unsent
from beatline_tasks.email.errors import MailboxError, MailError, Trouble
from beatline_tasks.email.gate import HostDown, admitted
from beatline_tasks.email.lock import MailboxLock, mailbox_lock
from beatline_tasks.email.login import TokenKeeper, open_session
from beatline_tasks.email.mailbox import Mailbox
from beatline_tasks.email.reading import Mail, read_batch
from beatline_tasks.email.session import UIDS_AT_ONCE, Listed, Selected, Session
from beatline_tasks.email.storing import Storer, Taken, Tally, known_uids, renumber, stored_elsewhere

if TYPE_CHECKING:
    from celery import Celery

    from beatline.installation import Installation

KIND: Final = "mailbox"
BUSY: Final = "busy"
BACKING_OFF: Final = "backing off"
HOST_DOWN: Final = "host down"
LEAST_S: Final = 5.0
"""With less time left no further batch is begun; the next poll goes on."""


def poll(installation: Installation, app: Celery, account_id: str) -> dict[str, Any] | str:
    """Store what is new in a mailbox (its name or id) and send it on; running twice adds nothing.

    `busy` if another poll does so, `backing off` after a failure, `host down` if its server did not answer a moment ago.
    Raises MailError, which tells login, token, throttling, network and protocol apart, MailboxError for what a person
    must change, HostBusyError or ServiceError for what may pass.
    """
    with guarded(installation.settings):
        definition, mailbox = open_mailbox(installation, account_id)
        with mailbox_lock(installation.engine, definition.id) as lock:
            if lock is None:
                return BUSY
            return _Poll(installation, app, definition, mailbox, lock).execute()


def open_mailbox(installation: Installation, name_or_id: object) -> tuple[Definition, Mailbox]:
    """The mailbox of this name or id, secrets in place; raises as `open_definition` does."""
    return open_definition(
        installation, KIND, name_or_id, Mailbox, error=MailboxError, begin=partial(transaction, installation)
    )


class _Poll:
    def __init__(
        self, installation: Installation, app: Celery, definition: Definition, mailbox: Mailbox, lock: MailboxLock
    ) -> None:
        self._installation, self._app = installation, app
        self._definition, self._mailbox, self._lock = definition, mailbox, lock
        self._allow_private = installation.settings.allow_private_addresses
        self._tally, self._sent, self._lag, self._more = Tally(), 0, 0, False
        self._wrong: list[MailError] = []

    def execute(self) -> dict[str, Any] | str:
        """Poll, and say what was done."""
        with transaction(self._installation) as conn:
            standing = accounts.standing(conn, self._definition)
        account, self._state, self._tried = standing.account, standing.state, standing.account is not None
        if standing.unsent:  # runs were refused, or someone died over the quarantine
            self._sent += send_unsent(self._app, self._installation, self._definition.id)
        if account is not None and account.backing_off(self._definition, utc_now()):
            return BACKING_OFF
        keeper = TokenKeeper(accounts.open_token(self._installation, self._definition, account), self._keep)
        try:
            with admitted(self._installation, self._mailbox) as down:
                if down is not None:
                    return self._host_is_down(down)
                self._poll_folders(keeper)
        except (MailError, MailboxError, AddressRefusedError) as exc:
            with transaction(self._installation) as conn:
                accounts.failed(conn, self._definition, exc)
            raise
        return self._finish()

    def _host_is_down(self, down: HostDown) -> str:
        with transaction(self._installation) as conn:
            accounts.failed(conn, self._definition, MailError(Trouble.NETWORK, down.why), counts=False)
        return HOST_DOWN

    def _keep(self, tokens: Any) -> None:
        with transaction(self._installation) as conn:
            accounts.keep_token(conn, self._installation, self._definition, tokens)

    def _poll_folders(self, keeper: TokenKeeper) -> None:
        session = open_session(self._mailbox, keeper, allow_private=self._allow_private)
        try:
            for folder in (_Folder(self, session, name) for name in self._mailbox.folders):
                try:
                    folder.read()
                except MailError as exc:
                    if self.out_of_time(session):  # a backlog over a slow link is no failure
                        self.behind(folder.left, more=True)
                        return
                    # A folder that is not there stops no other; a connection that broke stops all.
                    if session.broken or exc.trouble is not Trouble.PROTOCOL:
                        raise
                    self._wrong.append(exc)
            if len(self._wrong) == len(self._mailbox.folders):
                raise self._wrong[0]
        finally:
            session.close()

    def _finish(self) -> dict[str, Any]:
        with transaction(self._installation) as conn:
            accounts.succeeded(conn, self._definition, self._lag)
            if self._wrong:
                accounts.failed(conn, self._definition, self._wrong[0], counts=False)
        if self._wrong:
            raise self._wrong[0]
        tally = self._tally
        result: dict[str, Any] = {"new": tally.new, "sent": self._sent, "lag": self._lag}
        result |= {name: getattr(tally, name) for name in ("known", "oversize", "quarantined") if getattr(tally, name)}
        result |= {"more": True} if self._more else {}
        if tally.new or tally.quarantined:
            get_logger(__name__).info("polled", mailbox=self._definition.name, **result)
        return result

    def save(self, folder: str, position: Position) -> None:
        """Keep a position for which nothing has to be stored."""
        self._lock.check()
        with transaction(self._installation) as conn:
            state = cursor.with_position(store.load_state(conn, self._definition, lock=True), folder, position)
            store.save_state(conn, self._definition, state)

    def broke_off(self, folder: str, stuck: Stuck) -> None:
        """Keep where a folder could not be read on, for the next poll to be careful there."""
        self._lock.check()
        with transaction(self._installation) as conn:
            state = careful.with_stuck(store.load_state(conn, self._definition, lock=True), folder, stuck)
            store.save_state(conn, self._definition, state)

    def out_of_time(self, session: Session) -> bool:
        """Whether its time is over, and was not spent in vain."""
        tally = self._tally
        return session.left_s < LEAST_S and bool(tally.new or tally.known or tally.quarantined)

    def done(self, taken: Taken) -> None:
        """Queue the runs that were just committed."""
        self._tally += taken.tally
        reach("email.stored")
        if taken.runs:
            publish(self._installation, taken.runs)
            self._sent += len(taken.runs)
        if taken.unsent:
            self._sent += send_unsent(self._app, self._installation, self._definition.id, taken.unsent)

    def behind(self, messages: int, *, more: bool) -> None:
        """Note how much of a folder is still to be read."""
        self._lag += messages
        self._more = self._more or more

    @property
    def context(self) -> tuple[Installation, Definition, Mailbox, MailboxLock, Celery]:
        """What a folder needs of the poll."""
        return self._installation, self._definition, self._mailbox, self._lock, self._app

    @property
    def tried(self) -> bool:
        """Whether this mailbox was polled before."""
        return self._tried

    def kept(self, folder: str) -> Position | None:
        """The position of a folder when the poll began."""
        return cursor.position_of(self._state, folder)

    def stuck(self, folder: str) -> Stuck:
        """Where earlier polls could not read a folder on."""
        return careful.stuck_of(self._state, folder)


class _Folder:
    """One folder in one poll."""

    def __init__(self, poll: _Poll, session: Session, folder: str) -> None:
        self._poll, self._session, self._folder = poll, session, folder
        self._installation, self._definition, self._mailbox, lock, app = poll.context
        self._storer = Storer(self._installation, self._definition, self._mailbox, folder, lock, app)
        self._saved: Position | None = None
        self._stuck = poll.stuck(folder)
        self._head: bytes | None = None
        self._at, self._last = 0, 0

    @property
    def left(self) -> int:
        """How much of it is still to be read, as far as that is known."""
        return max(0, self._last - self._at)

    def read(self) -> None:
        """Read what is new, batch by batch. Raises MailError."""
        selected = self._session.select(self._folder, writable=self._mailbox.mark_seen)
        self._saved = self._poll.kept(self._folder)
        position = self._start(selected, self._saved)
        self._at, self._last = position.uid, (selected.uid_next or 1) - 1
        for page in self._pages(selected, position):
            for batch in self._batches(page, position):
                with READING.lent(self._weight(batch), self._session.left_s - LEAST_S) as lent:
                    if not lent or self._session.left_s < LEAST_S:
                        self._poll.behind(self.left, more=True)
                        return
                    position = self._take(batch, position)
                    self._at = position.uid
            position = position.reached(page[-1].uid) if page else position
            self._save(position)
        # UIDs of messages that are gone may lie behind the last one that is there.
        self._save(position.reached((selected.uid_next or 1) - 1))

    def _save(self, position: Position) -> None:
        """Keep a position, if it is not the one that was stored with the last batch."""
        if position != self._saved:
            self._poll.save(self._folder, position)
            self._saved = position

    def _start(self, selected: Selected, kept: Position | None) -> Position:
        """Where reading begins: at the cursor, at the first sync where the mailbox says, else at the beginning."""
        if kept is not None and kept.uidvalidity == selected.uidvalidity:
            return kept
        if kept is not None:
            return kept.renumbered(selected.uidvalidity, self._last_uid(selected))
        first = self._first(selected)
        # Without a cursor, what is stored is from before it was reset: of a mailbox that was never polled, nothing is.
        return replace(first, known_to=self._last_uid(selected)) if self._poll.tried else first

    def _first(self, selected: Selected) -> Position:
        if self._mailbox.first_sync == "all":
            return Position(selected.uidvalidity)
        now = utc_now()
        if self._mailbox.first_sync == "new":
            return Position(selected.uidvalidity, self._last_uid(selected), since=now)
        since = now - timedelta(days=self._mailbox.since_days or 0)
        found = self._session.uids_since(since.date())
        uid = found[0] - 1 if found else self._last_uid(selected)
        return Position(selected.uidvalidity, uid, since=datetime.combine(since.date(), datetime.min.time(), UTC))

    def _last_uid(self, selected: Selected) -> int:
        if selected.uid_next is not None:
            return selected.uid_next - 1
        return max(self._session.uids_after(0), default=0)

    def _pages(self, selected: Selected, position: Position) -> Iterator[list[Listed]]:
        """What lies after the position, some hundred messages at a time."""
        ids, last = position.rematching, selected.uid_next and selected.uid_next - 1
        if not selected.messages or (last is not None and last <= position.uid):
            return
        if last is not None and last - position.uid <= UIDS_AT_ONCE:
            yield self._session.listed(f"{position.uid + 1}:{last}", message_ids=ids)
            return
        uids = self._session.uids_after(position.uid)
        for start in range(0, len(uids), UIDS_AT_ONCE):
            yield self._session.listed(uids[start : start + UIDS_AT_ONCE], message_ids=ids)

    def _batches(self, page: Sequence[Listed], position: Position) -> Iterator[list[Listed]]:
        wanted = [one for one in page if not self._unwanted(one, position)]
        known = self._known([one.uid for one in wanted if one.uid <= position.known_to], position)
        left = self._rematched([one for one in wanted if one.uid not in known], position)
        if not self._stuck.within(position.uidvalidity, left):
            return self._grouped(left)
        before = [one for one in left if one.uid < self._stuck.uid]
        alone = ([one] for one in left if self._stuck.uid <= one.uid <= self._stuck.to)
        return chain(self._grouped(before), alone, self._grouped([one for one in left if one.uid > self._stuck.to]))

    def _grouped(self, some: Sequence[Listed]) -> Iterator[list[Listed]]:
        box = self._mailbox
        return cursor.batches(
            some, messages=box.batch_messages, size_bytes=box.batch_bytes, max_message_bytes=box.max_message_bytes
        )

    def _weight(self, batch: Sequence[Listed]) -> int:
        """What it takes in memory, as the server tells."""
        return sum(one.size_bytes for one in batch if one.size_bytes <= self._mailbox.max_message_bytes)

    def _known(self, uids: Sequence[int], position: Position) -> set[int]:
        """Which of these need not be read: a message that is stored is not stored again, but to read it costs."""
        if not uids:
            return set()
        with transaction(self._installation) as conn:
            return known_uids(conn, self._definition.id, self._folder, position.uidvalidity, uids)

    def _unwanted(self, one: Listed, position: Position) -> bool:
        """Whether the first sync left it out, and it comes up again because the folder was renumbered."""
        return one.uid <= position.rematch_to and position.since is not None and one.received_at < position.since

    def _rematched(self, page: list[Listed], position: Position) -> list[Listed]:
        """What of a page is not known under another UID by its Message-ID; the others get their new UIDs."""
        ids = {one.message_id for one in page if one.message_id and one.uid <= position.rematch_to}
        if not position.rematching or not ids:
            return page
        with transaction(self._installation) as conn:
            stored = stored_elsewhere(conn, self._definition.id, self._folder, position.uidvalidity, ids)
            matches = cursor.matched(page, stored)
            renumber(conn, matches, position.uidvalidity)
        self._poll.done(Taken(Tally(known=len(matches))))
        return [one for one in page if one.uid not in matches]

    def _take(self, batch: Sequence[Listed], position: Position) -> Position:
        """Read, store and send one batch; the position after it."""
        try:
            mails = self._read(batch, position)
        except MailError as exc:
            if not self._poll.out_of_time(self._session):
                self._break_off(batch, position, exc)
            raise
        after = position.reached(batch[-1].uid)
        taken = self._storer.store(mails, after, rematching=position.rematching)
        self._saved = after
        self._poll.done(taken)
        if self._mailbox.mark_seen and mails:
            self._session.mark_seen([mail.uid for mail in mails])
        return after

    def _read(self, batch: Sequence[Listed], position: Position) -> list[Mail]:
        if self._stuck.last_time(position.uidvalidity, batch):  # its header may be all there will ever be
            self._head = careful.header_of(self._session, batch[0])
        try:
            return list(read_batch(self._session, batch, self._mailbox))
        except MailError as exc:
            if not careful.refuses(self._session, exc):
                raise
            return careful.read_apart(self._session, batch, self._mailbox)

    def _break_off(self, batch: Sequence[Listed], position: Position, exc: MailError) -> None:
        """Note where this poll could not read on; a message that has stopped several in a row is set aside."""
        if exc.trouble is Trouble.THROTTLED:  # it says when to come, not what is wrong
            return
        first, last = batch[0], batch[-1] if self._session.broken else batch[0]
        stuck = self._stuck.again(position.uidvalidity, first.uid, last.uid)
        if not stuck.proven:
            self._poll.broke_off(self._folder, stuck)
            return
        unread = careful.unread(first, self._head, str(exc))
        self._poll.done(self._storer.store([unread], position.reached(first.uid), rematching=position.rematching))
