"""The mail of a delivery: a plain table in its body, the files attached as long as they are small enough. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

_POLICY = SMTP.clone(cte_type="7bit", max_line_length=200)  # servers without 8BITMIME take it as well
_POLICY_UTF8 = _POLICY.clone(utf8=True)
"""With an address beyond ASCII, which only a server with SMTPUTF8 takes: its header has no other form."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes along."""

    name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Letter:
    """What a mail says; the same to every recipient."""

    subject: str
    text: str
    html: str | None
    pictures: Mapping[str, bytes]
    attachments: Sequence[Attachment]


def build(letter: Letter, *, sender: str, to: str, message_id: str, at: datetime, headers: Mapping[str, str]) -> bytes:
    """The mail as it goes over the wire. Raises ValueError or MessageError for an address that is none."""
    message = EmailMessage(policy=_POLICY if (sender + to).isascii() else _POLICY_UTF8)
    message["From"] = sender
    message["To"] = Address(addr_spec=to) if to.isascii() else to
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(at)
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"  # nobody's holiday notice is wanted
    for name, value in headers.items():
        message[name] = value
    message.set_content(letter.text)
    if letter.html is not None:
        message.add_alternative(letter.html, subtype="html")
        _add_pictures(message, letter.pictures)
    for file in letter.attachments:
        main, _, rest = file.content_type.partition("/")
        kind, _, _ = rest.partition(";")
        if main == "text":
            # As bytes: text would have its line ends changed, and its mark of UTF-8 doubled.
            message.add_attachment(file.content, maintype="text", subtype=kind, filename=file.name,
                                   params={"charset": "utf-8"})  # fmt: skip
        else:
            message.add_attachment(file.content, maintype=main, subtype=kind, filename=file.name)
    return message.as_bytes()


def _add_pictures(message: EmailMessage, pictures: Mapping[str, bytes]) -> None:
    page = next((part for part in message.iter_parts() if part.get_content_type() == "text/html"), None)
    if page is None:
        return
    for name, content in pictures.items():
        page.add_related(content, maintype="image", subtype="png", cid=f"<{name}>", filename=f"{name}.png",
                         disposition="inline")  # fmt: skip
