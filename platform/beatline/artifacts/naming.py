"""Names of files as strangers wrote them, made safe to show, to store and to offer for download. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

NAME_BYTES: Final = 200
"""File systems take 255 bytes; what saves a file may put something in front of its name."""

_EXTENSION_BYTES: Final = 20
_FORBIDDEN: Final = re.compile(r'[<>:"|?*]')
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?=\.|$)", re.IGNORECASE)


def safe_name(name: str, *, fallback: str = "file") -> str:
    """A name without a path, control characters or tricks of direction, that every file system takes.

    At most NAME_BYTES bytes of UTF-8, the extension kept. What leaves nothing becomes `fallback`.
    """
    last = re.split(r"[/\\]", name)[-1]
    # Cc controls, Cf turns the direction of writing or shows nothing, Cs are halves of characters.
    kept = "".join(char for char in last if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    plain = _FORBIDDEN.sub("_", " ".join(unicodedata.normalize("NFC", kept).split())).strip(". ")
    if not plain:
        return fallback
    if _RESERVED.match(plain):
        plain = f"_{plain}"  # Windows opens a device for NUL.txt
    return _shortened(plain)


def _shortened(name: str) -> str:
    if len(name.encode()) <= NAME_BYTES:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension.encode()) > _EXTENSION_BYTES:
        stem, dot, extension = name, "", ""
    room = NAME_BYTES - len((dot + extension).encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + dot + extension
