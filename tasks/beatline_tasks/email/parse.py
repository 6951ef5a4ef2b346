"""A message from its bytes: pure, bounded in time and memory, and either Parsed or Unreadable with a reason.

The standard library's parser is used with care. Its effort grows with lines times nested parts, with the square of a
Content-Type, and its recursion with depth: what would be too much is refused before it begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email import message_from_bytes
from email.message import Message
from email.policy import Compat32
from typing import Any, Final, TypeAlias

from beatline_tasks.email.filenames import attachment_name
from beatline_tasks.email.headers import addresses, date_of, decoded, header_text, message_id_of, subject_of

MAX_DEPTH: Final = 50
MAX_PARTS: Final = 1000
MAX_LINES: Final = 1_000_000
MAX_EFFORT: Final = 10_000_000
"""Lines times (1 + multiparts): how often the parser compares a line with a boundary; about ten seconds."""
MAX_PARAMETERS_BYTES: Final = 16 * 1024
MAX_BODY_CHARS: Final = 1_000_000
"""Of each form of the body; the rest is cut, and the message is kept whole only by keep_raw."""

_PARAMETERS: Final = re.compile(
    rb"(?i)content-(?:type|disposition)[ \t]*:[^\r\n]*(?:\r?\n[ \t][^\r\n]*|\r[ \t][^\r\n]*)*"
)
_MULTIPART: Final = re.compile(rb"(?i)multipart/|message/")
_AUTO_PRECEDENCE: Final = frozenset({"bulk", "junk", "list", "auto_reply", "auto-reply"})
_AUTO_HEADERS: Final = ("x-auto-response-suppress", "x-autoreply", "x-autorespond")
_TELLS_AUTOMATIC: Final = frozenset({"auto-submitted", "precedence", *_AUTO_HEADERS})

MailPart: TypeAlias = "Message[Any, Any]"


class _Raw(Compat32):
    """The standard library's lenient policy, but header fields keep their 8-bit bytes, as surrogates, for us to read."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value


_POLICY: Final = _Raw()


class Unreadable(Exception):
    """A message that cannot be taken apart; says why."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a message: its name made safe, its bytes as they were before they were packed for mail."""

    name: str
    content_type: str
    data: bytes = field(repr=False)
    content_id: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a message says. `sent_at` is its Date, or when it arrived if that cannot be believed."""

    message_id: str | None
    subject: str
    sender: str
    recipients: tuple[str, ...]
    sent_at: datetime
    auto_submitted: bool
    bounce: bool
    text: str | None = None
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()


def parse(raw: bytes, received_at: datetime) -> Parsed:
    """The message. Raises Unreadable."""
    _refuse_effort(raw)
    try:
        message = read(raw)
        parts = list(_leaves(message))
        body = _Body()
        for number, part in enumerate(parts, 1):
            body.take(part, number)
        return _read(message, received_at, body)
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("its parts are nested too deep") from None
    except MemoryError:
        raise Unreadable("there is not enough memory to take it apart") from None
    except Exception as exc:
        # The parser's own failures on broken mail are of many kinds; one message must not stop its mailbox.
        raise Unreadable(f"it cannot be taken apart ({type(exc).__name__})") from exc


def read(raw: bytes) -> MailPart:
    """The message as the standard library reads it; one without parts in a fraction of the time.

    The library goes line by line through a body in which nothing has to be found.
    """
    head, end, body = raw.partition(b"\r\n\r\n")
    if end:
        message: MailPart = message_from_bytes(head + end, policy=_POLICY)
        # With something in its body, the header ended before; then, and with parts, the library does it all.
        if message.get_payload() == "" and message.get_content_maintype() not in ("multipart", "message"):
            message.set_payload(body.decode("ascii", "surrogateescape"))
            return message
    return message_from_bytes(raw, policy=_POLICY)


def parse_headers(raw: bytes, received_at: datetime) -> Parsed:
    """The message as its header fields tell it, without body and attachments. Raises Unreadable."""
    return parse(raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", received_at)


def _parameters(raw: bytes) -> Iterator[re.Match[bytes]]:
    # A case-blind search by the expression alone takes a millisecond for every 20 KB.
    lower, at = raw.lower(), -1
    while (at := lower.find(b"content-", at + 1)) >= 0:
        if at == 0 or lower[at - 1] in b"\r\n":
            match = _PARAMETERS.match(raw, at)
            if match is not None:
                yield match


def _refuse_effort(raw: bytes) -> None:
    lines = raw.count(b"\n") + raw.count(b"\r") - raw.count(b"\r\n")
    if lines > MAX_LINES:
        raise Unreadable(f"it has {lines:,} lines, and {MAX_LINES:,} are taken apart")
    nested = 0 if lines * lines < MAX_EFFORT else sum(1 for _ in _MULTIPART.finditer(raw))
    if lines * (1 + nested) > MAX_EFFORT:
        raise Unreadable(f"it names {nested:,} parts in {lines:,} lines: too much work to take apart")
    if len(raw) <= MAX_PARAMETERS_BYTES:
        return
    longest = max((len(match[0]) for match in _parameters(raw)), default=0)
    if longest > MAX_PARAMETERS_BYTES:
        raise Unreadable(f"a Content-Type or Content-Disposition has {longest:,} bytes")


def _leaves(message: MailPart) -> Iterator[MailPart]:
    """The parts that hold something, in order. A message inside it is one part; its depth counts all the same."""
    waiting: list[tuple[MailPart, int, bool]] = [(message, 0, True)]
    seen = 0
    while waiting:
        part, depth, ours = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise Unreadable(f"its parts are nested more than {MAX_DEPTH} deep")
        if seen > MAX_PARTS:
            raise Unreadable(f"it has more than {MAX_PARTS:,} parts")
        inner: Any = part.get_payload() if part.is_multipart() else []
        container = bool(inner) and part.get_content_maintype() == "multipart"
        if ours and not container:
            yield part
        waiting += [(child, depth + 1, ours and container) for child in reversed(inner)]


def _kind(part: MailPart) -> str:
    """The content type; of a multipart without a boundary, what it then is: text."""
    kind = header_text(part.get_content_type()).lower()[:200]
    return "text/plain" if kind.startswith("multipart/") else kind


class _Body:
    """The body's two forms and the attachments, gathered part by part."""

    def __init__(self) -> None:
        self.forms: dict[str, str] = {}
        self.attachments: list[Attachment] = []
        self.kinds: set[str] = set()

    def take(self, part: MailPart, number: int) -> None:
        kind = _kind(part)
        self.kinds.add(kind)
        name = _file_name(part)
        attached = name is not None or _disposition(part) == "attachment"
        data = _data(part)
        if not attached and kind in ("text/plain", "text/html") and len(self.forms.get(kind, "")) < MAX_BODY_CHARS:
            text = decoded(data, _charset(part))
            known = self.forms.get(kind)
            self.forms[kind] = (text if known is None else f"{known}\n{text}")[:MAX_BODY_CHARS]
            return
        if not data and not attached:
            return  # an empty part without a name
        content_id = message_id_of(part.get("Content-ID") or "")
        safe = attachment_name(name, kind, number)
        self.attachments.append(Attachment(safe, kind, data, content_id))


def _read(message: MailPart, received_at: datetime, body: _Body) -> Parsed:
    senders = addresses(_all(message, "From") or _all(message, "Sender"))
    bounce = _is_bounce(message, body.kinds)
    return Parsed(
        message_id=message_id_of(message.get("Message-ID") or ""),
        subject=subject_of(message.get("Subject") or ""),
        sender=senders[0] if senders else "",
        recipients=addresses([*_all(message, "To"), *_all(message, "Cc")]),
        sent_at=date_of(message.get("Date"), received_at),
        auto_submitted=bounce or _is_automatic(message),
        bounce=bounce,
        text=body.forms.get("text/plain"),
        html=body.forms.get("text/html"),
        attachments=tuple(body.attachments),
    )


def _all(message: MailPart, name: str) -> list[Any]:
    return message.get_all(name) or []


def _is_bounce(message: MailPart, kinds: set[str]) -> bool:
    if "message/delivery-status" in kinds or "message/global-delivery-status" in kinds:
        return True
    if message.get_content_type() == "multipart/report":
        return str(message.get_param("report-type") or "").lower() == "delivery-status"
    if header_text(message.get("Return-Path") or "-").strip() != "<>":
        return False
    sender = header_text(message.get("From") or "").lower()
    return "mailer-daemon" in sender or "postmaster" in sender


def _is_automatic(message: MailPart) -> bool:
    if _TELLS_AUTOMATIC.isdisjoint(map(str.lower, message.keys())):
        return False
    submitted = header_text(message.get("Auto-Submitted") or "no").partition(";")[0].strip().lower()
    precedence = header_text(message.get("Precedence") or "").lower()
    return (
        submitted != "no"
        or precedence in _AUTO_PRECEDENCE
        or any(message.get(name) is not None for name in _AUTO_HEADERS)
    )


def _disposition(part: MailPart) -> str:
    return header_text(part.get("Content-Disposition") or "").partition(";")[0].strip().lower()


def _file_name(part: MailPart) -> str | None:
    told = f"{part.get('Content-Disposition')} {part.get('Content-Type')}"
    if "name" not in told.lower():  # neither `filename` nor `name`: nothing to take apart
        return None
    try:
        name = part.get_filename()
    except (ValueError, LookupError, TypeError):  # a parameter in numbered pieces that do not fit together
        return "" if "name" in str(part.get("Content-Disposition") or "") else None
    return None if name is None else header_text(name)


def _charset(part: MailPart) -> str | None:
    try:
        return part.get_content_charset()
    except (ValueError, LookupError, TypeError):
        return None


def _data(part: MailPart) -> bytes:
    """The part's bytes, unpacked; of a message inside the message, the message."""
    if not part.is_multipart():
        data: Any = part.get_payload(decode=True)
        return data if isinstance(data, bytes) else b""
    inner: Any = part.get_payload()
    return b"\r\n".join(_bytes_of(message) for message in inner)


def _bytes_of(message: MailPart) -> bytes:
    try:
        return message.as_bytes()
    except (LookupError, UnicodeError, AttributeError, TypeError):
        # The library cannot write again what it has read, such as a charset that nobody knows.
        return str(message.get_payload()).encode("utf-8", "surrogateescape")
