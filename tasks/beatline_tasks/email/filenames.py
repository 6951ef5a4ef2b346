"""What an attachment is called when its sender gave it no name, or none that is safe. Pure."""

from __future__ import annotations

import mimetypes
from typing import Final

from beatline.artifacts.naming import safe_name

# What mimetypes knows comes from files of the machine, which differ; these are what mail holds.
_EXTENSIONS: Final = {
    "message/rfc822": ".eml", "text/calendar": ".ics", "application/ms-tnef": ".dat", "message/delivery-status": ".txt",
    "application/pkcs7-mime": ".p7m", "application/pkcs7-signature": ".p7s", "application/x-pkcs7-signature": ".p7s",
    "application/x-pkcs7-mime": ".p7m", "text/plain": ".txt", "text/html": ".html", "text/rfc822-headers": ".txt",
    "application/pgp-signature": ".asc", "image/jpeg": ".jpg",
}  # fmt: skip


def attachment_name(said: str | None, content_type: str, number: int) -> str:
    """The name its sender gave, made safe; `attachment-2.pdf` where none is left."""
    extension = _EXTENSIONS.get(content_type) or mimetypes.guess_extension(content_type) or ".bin"
    return safe_name(said or "", fallback=f"attachment-{number}{extension}")
