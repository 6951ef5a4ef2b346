"""From what a server sends to what is stored: each message taken apart, or set aside with the reason. No SQL here."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from beatline_tasks.email.parse import Parsed, Unreadable, parse, parse_headers

if TYPE_CHECKING:
    from beatline_tasks.email.mailbox import Mailbox
    from beatline_tasks.email.session import Listed, Session

_LARGE_BYTES: Final = 4 * 2**20
_LARGE: Final = threading.BoundedSemaphore(2)
"""A message in parts takes several times its size: of large ones, two at a time in a process."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that was read: parsed, or unreadable with the reason. `raw` is None of an oversize one."""

    uid: int
    received_at: datetime
    size_bytes: int
    content_hash: str
    oversize: bool = False
    raw: bytes | None = field(default=None, repr=False)
    parsed: Parsed | None = None
    reason: str | None = None


def read_batch(session: Session, batch: Sequence[Listed], mailbox: Mailbox) -> Iterator[Mail]:
    """The messages of a batch, in order; those that are gone meanwhile are left out. Raises MailError."""
    limit = mailbox.max_message_bytes
    whole = [one for one in batch if one.size_bytes <= limit]
    bodies = session.bodies([one.uid for one in whole], sum(one.size_bytes for one in whole)) if whole else {}
    for one in batch:
        if one.size_bytes > limit:
            raw = session.headers(one.uid)
            if raw is not None:
                yield read_headers(one, raw)
            continue
        raw = bodies.pop(one.uid, None)
        if raw is not None:  # a server may send more than the size it told
            yield read_message(one, raw) if len(raw) <= limit else read_headers(one, raw)


def read_message(listed: Listed, raw: bytes) -> Mail:
    """A message of which all is here."""
    digest = hashlib.sha256(raw).hexdigest()
    turn = _LARGE if len(raw) > _LARGE_BYTES else _FREE
    try:
        with turn:
            parsed = parse(raw, listed.received_at)
    except Unreadable as exc:
        return Mail(listed.uid, listed.received_at, listed.size_bytes, digest, raw=raw, reason=str(exc))
    return Mail(listed.uid, listed.received_at, listed.size_bytes, digest, raw=raw, parsed=parsed)


def read_headers(listed: Listed, raw: bytes) -> Mail:
    """A message that is too large: what its header says."""
    head = raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    digest = hashlib.sha256(head).hexdigest()
    try:
        parsed = parse_headers(head, listed.received_at)
    except Unreadable as exc:
        return Mail(listed.uid, listed.received_at, listed.size_bytes, digest, raw=head, reason=str(exc))
    return Mail(listed.uid, listed.received_at, listed.size_bytes, digest, oversize=True, parsed=parsed)


class _Open:
    """A turn that everybody has at once."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_FREE: Final = _Open()
