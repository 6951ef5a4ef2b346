"""What a server does not hand out: found by asking for each message alone, and set aside so that the rest go in.

A server may refuse one message for ever, or break the connection over it: then no poll would come past it. A refusal is
believed if the message's header, or another message, can be had; else the server itself may be in trouble. So may a
connection that breaks. These are believed the third time in a row, and until then the poll fails as it should.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from beatline.datasets.columns import clean_text
from beatline_tasks.email.errors import MailError, Trouble
from beatline_tasks.email.reading import Mail, read_batch

if TYPE_CHECKING:
    from beatline_tasks.email.mailbox import Mailbox
    from beatline_tasks.email.session import Listed, Session

TIMES: Final = 3
UNREAD: Final = "unread:"
"""How the content hash of a message begins that was never read."""
_REASON_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Stuck:
    """Where polls of a folder broke off: among the messages from `uid` up to `to`, so often in a row."""

    uidvalidity: int
    uid: int
    to: int
    times: int = 1

    def again(self, uidvalidity: int, uid: int, to: int) -> Stuck:
        """After another poll has broken off."""
        same = (self.uidvalidity, self.uid, self.to) == (uidvalidity, uid, to)
        return Stuck(uidvalidity, uid, to, self.times + 1 if same else 1)

    @property
    def proven(self) -> bool:
        """Whether it was one message, and often enough."""
        return self.uid == self.to and self.times >= TIMES

    def within(self, uidvalidity: int, some: Sequence[Listed]) -> bool:
        """Whether one of these messages may be the one: then each of them is read alone."""
        return self.uidvalidity == uidvalidity and any(self.uid <= one.uid <= self.to for one in some)

    def last_time(self, uidvalidity: int, batch: Sequence[Listed]) -> bool:
        """Whether this is the one, and would be proven if it broke off again."""
        return self.within(uidvalidity, batch) and self.again(uidvalidity, batch[0].uid, batch[-1].uid).proven


def stuck_of(state: Mapping[str, Any], folder: str) -> Stuck:
    """Where polls of a folder broke off; nowhere, if they did not."""
    places: Mapping[str, Mapping[str, Any]] = state.get("stuck") or {}
    return Stuck(**places[folder]) if folder in places else Stuck(0, 0, 0, 0)


def with_stuck(state: Mapping[str, Any], folder: str, stuck: Stuck) -> dict[str, Any]:
    """The state with another place where polls of a folder broke off."""
    return {**state, "stuck": {**(state.get("stuck") or {}), folder: asdict(stuck)}}


def read_apart(session: Session, batch: Sequence[Listed], mailbox: Mailbox) -> list[Mail]:
    """The messages of a batch, read one by one; those that the server refuses as unread.

    Raises MailError if it refuses all of them, headers too, or if the connection breaks.
    """
    mails: list[Mail] = []
    believed, refused = False, None
    for one in batch:
        try:
            read = list(read_batch(session, [one], mailbox))
            believed = believed or bool(read)
            mails += read
        except MailError as exc:
            if not refuses(session, exc):
                raise
            head = header_of(session, one)
            believed, refused = believed or head is not None, refused or exc
            mails.append(unread(one, head, str(exc)))
    if refused is not None and not believed:
        raise refused
    return mails


def refuses(session: Session, exc: MailError) -> bool:
    """Whether the server said no to what was asked for, and can be asked for something else."""
    return exc.trouble is Trouble.PROTOCOL and not session.broken


def header_of(session: Session, one: Listed) -> bytes | None:
    """The header of a message; None if it cannot be had. Raises MailError if the connection breaks over it."""
    try:
        return session.headers(one.uid)
    except MailError:
        if session.broken:
            raise
        return None


def unread(one: Listed, head: bytes | None, why: str) -> Mail:
    """A message of which at most the header could be read, and the reason."""
    raw = head or b""
    digest = UNREAD + hashlib.sha256(raw).hexdigest()
    reason = clean_text(f"the server does not hand it out: {why}")[:_REASON_CHARS]
    return Mail(one.uid, one.received_at, one.size_bytes, digest, raw=raw, reason=reason)
