"""How the corpus writes a message: byte by byte, because no library writes what is wrong."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

CRLF: Final = b"\r\n"
Outcome = Literal["ingested", "quarantined", "either"]
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Kind:
    """Messages that are hostile in one way. `outcome` is where they must end; a mail that real people send goes in."""

    name: str
    make: Callable[[], Sequence[bytes]]
    outcome: Outcome = "ingested"


def ids() -> bytes:
    """A Message-ID that no other message has, with its header's name."""
    return b"Message-ID: <corpus-%d@example.org>" % next(_numbers)


def mail(body: bytes = b"Text\r\n", *headers: bytes, usual: bool = True) -> bytes:
    """A message of these header lines; with the usual ones, unless a line of the same name is given."""
    lines = list(headers)
    named = {line.partition(b":")[0].lower() for line in headers}
    ours = (
        b"From: Anna <anna@example.org>", b"To: Bea <bea@example.org>", b"Subject: Figures",
        b"Date: Mon, 12 Feb 2024 10:00:00 +0100",
    )  # fmt: skip
    if usual:
        lines = [line for line in ours if line.partition(b":")[0].lower() not in named] + lines
        lines += [] if b"message-id" in named else [ids()]
    return CRLF.join(lines) + CRLF + CRLF + body


def part(body: bytes, *headers: bytes) -> bytes:
    """A part of a multipart."""
    return CRLF.join(headers) + CRLF + CRLF + body


def multipart(parts: Iterable[bytes], *, kind: bytes = b"mixed", boundary: bytes = b"b1", end: bool = True) -> bytes:
    """A whole message of parts."""
    return mail(
        joined(parts, boundary, end=end),
        b"MIME-Version: 1.0",
        b'Content-Type: multipart/%s; boundary="%s"' % (kind, boundary),
    )


def joined(parts: Iterable[bytes], boundary: bytes, *, end: bool = True) -> bytes:
    """Parts between their boundary."""
    text = b"".join(b"--" + boundary + CRLF + one + CRLF for one in parts)
    return text + (b"--" + boundary + b"--" + CRLF if end else b"")


def attachment(data: bytes, name: bytes, kind: bytes = b"application/octet-stream") -> bytes:
    """A part with a file; the name goes in as it is."""
    return part(
        base64.encodebytes(data).replace(b"\n", CRLF),
        b"Content-Type: " + kind,
        b"Content-Disposition: attachment; filename=" + name,
        b"Content-Transfer-Encoding: base64",
    )


TEXT: Final = part(b"See the attachment.\r\n", b"Content-Type: text/plain; charset=utf-8")


def with_file(data: bytes, name: bytes, kind: bytes = b"application/octet-stream") -> bytes:
    """A message with one file."""
    return multipart([TEXT, attachment(data, name, kind)])
