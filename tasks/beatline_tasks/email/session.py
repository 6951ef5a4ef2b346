"""A logged-in IMAP session: what polling asks of a server, in typed values. Every failure is a MailError in words."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final, cast

from beatline.clock import monotonic_s, utc_now
from beatline_tasks.email.errors import MailError, Trouble
from beatline_tasks.email.failures import breaks, mail_error
from beatline_tasks.email.headers import message_id_of

if TYPE_CHECKING:
    from imap_tools.mailbox import BaseMailBox

    from beatline_tasks.email.mailbox import Mailbox
    from beatline_tasks.email.wire import Client

UIDS_AT_ONCE: Final = 500
"""In one command: a server refuses lines of more than some thousand characters."""
_ANSWER_BYTES: Final = 2 * 2**20
_BEGINS: Final = re.compile(rb"^\d+ \(")
_UID: Final = re.compile(rb"\bUID (\d+)", re.IGNORECASE)
_SIZE: Final = re.compile(rb"RFC822\.SIZE (\d+)", re.IGNORECASE)
_DATE: Final = re.compile(rb'INTERNALDATE "([^"]*)"', re.IGNORECASE)
_MOMENT: Final = re.compile(r"\s*(\d{1,2})-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d)(?: ([+-])(\d\d)(\d\d))?")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MESSAGE_ID: Final = re.compile(rb"(?is)^message-id[ \t]*:(.*?)(?:\r?\n(?![ \t])|\Z)")


@dataclass(frozen=True, slots=True)
class Selected:
    """An opened folder. `uid_next` is None where the server does not tell."""

    uidvalidity: int
    uid_next: int | None
    messages: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A message before its body is read. `message_id` only where it was asked for."""

    uid: int
    size_bytes: int
    received_at: datetime
    message_id: str | None = None


class Session:
    """One logged-in connection; closed by `close`, which never raises."""

    def __init__(self, mailbox: Mailbox, connection: BaseMailBox, client: Client) -> None:
        self._mailbox, self._connection, self._client = mailbox, connection, client
        self._broken = False

    @property
    def broken(self) -> bool:
        """Whether the connection is gone, or what would come next on it could not be told apart."""
        return self._broken

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the server said it can."""
        return tuple(cast("Iterable[str]", self._client.capabilities))

    @property
    def left_s(self) -> float:
        """What is left of the time for the poll."""
        return self._client.ends_s - monotonic_s()

    def folders(self) -> list[str]:
        """The names of the folders that can be opened."""
        with self._asking("to list folders"):
            found = self._connection.folder.list()
        return [folder.name for folder in found if "\\noselect" not in map(str.lower, folder.flags)]

    def select(self, folder: str, *, writable: bool) -> Selected:
        """Open a folder. Raises MailError if there is none of that name."""
        with self._asking(f"to open the folder {folder!r}"):
            opened: Any = self._connection.folder
            answer = opened.set(folder, readonly=not writable)
            known = {name: self._client.response(name)[1] for name in ("UIDVALIDITY", "UIDNEXT")}
            numbers = {name: _number(cast("Any", values)) for name, values in known.items()}
            messages = _number(answer[1]) or 0
        validity = numbers["UIDVALIDITY"]
        if not validity:
            text = f"{self._mailbox.place} gives the folder {folder!r} no UIDVALIDITY: what was read could not be told."
            raise MailError(Trouble.PROTOCOL, text)
        return Selected(validity, numbers["UIDNEXT"], messages)

    def uids_after(self, uid: int) -> list[int]:
        """The UIDs above one, in order."""
        # n:* names the last message even if its UID is below n.
        return [found for found in self._search("UID", f"{uid + 1}:*") if found > uid]

    def uids_since(self, day: date) -> list[int]:
        """The UIDs of what arrived on this day or later, in order."""
        return self._search("SINCE", f"{day.day:02}-{_MONTHS[day.month - 1].title()}-{day.year}")

    def listed(self, uids: Sequence[int] | str, *, message_ids: bool = False) -> list[Listed]:
        """Sizes and dates of messages, by UID; those that are gone are left out."""
        asked = "(UID RFC822.SIZE INTERNALDATE"
        asked += " BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])" if message_ids else ")"
        found: dict[int, Listed] = {}
        for words, literals in self._fetch(uids, asked, _ANSWER_BYTES):
            uid, size, date_said = _UID.search(words), _SIZE.search(words), _DATE.search(words)
            if uid is None or size is None:
                continue
            received_at = moment_of(date_said[1].decode("ascii", "replace") if date_said else "")
            named = _MESSAGE_ID.search(literals[0]) if literals else None
            message_id = message_id_of(named[1].decode("ascii", "surrogateescape")) if named else None
            found[int(uid[1])] = Listed(int(uid[1]), int(size[1]), received_at, message_id)
        return [found[uid] for uid in sorted(found)]

    def bodies(self, uids: Sequence[int], size_bytes: int) -> dict[int, bytes]:
        """Whole messages of about `size_bytes` in all, by UID, not marked as read; those that are gone are left out."""
        return self._contents(uids, "(UID BODY.PEEK[])", size_bytes)

    def headers(self, uid: int) -> bytes | None:
        """The header of one message; None if it is gone."""
        return self._contents([uid], "(UID BODY.PEEK[HEADER])", _ANSWER_BYTES).get(uid)

    def mark_seen(self, uids: Sequence[int]) -> None:
        """Mark messages as read."""
        with self._asking("to mark messages as read", _ANSWER_BYTES):
            self._checked(self._client.uid("STORE", compressed(uids), "+FLAGS.SILENT", r"(\Seen)"))

    def close(self) -> None:
        """Log out and close, whatever state the connection is in."""
        self._client.ends_s = min(self._client.ends_s, monotonic_s() + 2)
        with suppress(Exception):
            self._client.logout()
        with suppress(Exception):
            self._client.shutdown()

    def _search(self, *criteria: str) -> list[int]:
        with self._asking("to search", 16 * _ANSWER_BYTES):
            data = self._checked(self._client.uid("SEARCH", *criteria))
            return sorted({int(uid) for line in data if isinstance(line, bytes) for uid in line.split()})

    def _contents(self, uids: Sequence[int], asked: str, size_bytes: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        # Some servers tell a size that is too small by a byte for each line.
        for words, literals in self._fetch(uids, asked, size_bytes * 2 + _ANSWER_BYTES):
            uid = _UID.search(words)
            if uid is not None and b"BODY[" in words.upper():
                found[int(uid[1])] = literals[0] if literals else b""
        return found

    def _fetch(self, uids: Sequence[int] | str, asked: str, allowance: int) -> list[tuple[bytes, list[bytes]]]:
        with self._asking("to read messages", allowance):
            self._client.response("FETCH")  # what was sent before a refusal is no answer to this
            chosen = uids if isinstance(uids, str) else compressed(uids)
            return grouped(self._checked(self._client.uid("FETCH", chosen, asked)))

    def _checked(self, answer: Any) -> list[Any]:
        status, data = answer
        if status != "OK":
            raise self._client.error(b" ".join(item for item in data if isinstance(item, bytes)))
        return cast("list[Any]", data)

    @contextmanager
    def _asking(self, doing: str, allowance: int = _ANSWER_BYTES) -> Generator[None]:
        self._client.allowance = allowance
        try:
            yield
        except Exception as exc:
            self._broken = self._broken or breaks(exc)
            raise mail_error(exc, self._mailbox, doing) from exc


def compressed(uids: Iterable[int]) -> str:
    """UIDs as a command takes them: 1:5,9."""
    ranges: list[list[int]] = []
    for uid in uids:
        if ranges and uid == ranges[-1][1] + 1:
            ranges[-1][1] = uid
        else:
            ranges.append([uid, uid])
    return ",".join(str(first) if first == last else f"{first}:{last}" for first, last in ranges)


def grouped(data: Iterable[Any]) -> list[tuple[bytes, list[bytes]]]:
    """What imaplib hands on of a FETCH, message by message: the words of the answer, and its literals in order."""
    found: list[tuple[bytes, list[bytes]]] = []
    for item in data:
        if item is None:
            continue
        words, literal = cast("tuple[bytes, bytes | None]", item if isinstance(item, tuple) else (item, None))
        if _BEGINS.match(words) or not found:
            found.append((b"", []))
        before, literals = found[-1]
        found[-1] = (before + words, [*literals, literal] if literal is not None else literals)
    return found


def moment_of(said: str) -> datetime:
    """An INTERNALDATE in UTC; now, if the server says nothing that can be read."""
    match = _MOMENT.match(said)
    with suppress(ValueError, OverflowError):
        if match is not None:
            day, month, year, hour, minute, second = match.groups()[:6]
            east = timedelta(hours=int(match[8] or 0), minutes=int(match[9] or 0)) * (-1 if match[7] == "-" else 1)
            local = datetime(
                int(year), _MONTHS.index(month.lower()) + 1, int(day), int(hour), int(minute), min(int(second), 59),
                tzinfo=timezone(east),
            )  # fmt: skip
            return local.astimezone(UTC)
    return utc_now()


def _number(values: Sequence[Any] | None) -> int | None:
    last = values[-1] if values else None
    digits = re.match(rb"\d+", last) if isinstance(last, bytes) else None
    return int(digits[0]) if digits else None
