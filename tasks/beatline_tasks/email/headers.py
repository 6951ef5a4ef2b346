"""Header fields of a message, decoded as far as they can be. Pure; nothing in here raises for what a sender wrote.

Mail breaks every rule there is: raw 8-bit bytes, charsets that nobody knows or that lie, encoded words cut in half, NUL.
What cannot be decoded stays readable where it can, and becomes U+FFFD where it cannot.
"""

from __future__ import annotations

import binascii
import codecs
import quopri
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import getaddresses, parsedate_to_datetime
from typing import Final

from beatline.datasets.columns import clean_text

MAX_HEADER_CHARS: Final = 64 * 1024
MAX_ADDRESSES: Final = 500
_MAX_SUBJECT: Final = 2000
_MAX_MESSAGE_ID_BYTES: Final = 998
"""As UTF-8: it stands in an index, and what PostgreSQL takes into one is counted in bytes."""
_MAX_ADDRESS: Final = 400

# Names in mail that Python does not know, and names of subsets that senders use for the whole.
_ALIASES: Final = {
    "gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "gb_2312-80": "gb18030", "cp-850": "cp850",
    "ks_c_5601-1987": "cp949", "ks_c_5601": "cp949", "euc-kr": "cp949", "x-sjis": "cp932", "shift_jis": "cp932",
    "unicode-1-1-utf-7": "utf-7", "iso-8859-1": "cp1252", "us-ascii": "ascii", "unknown-8bit": "utf-8",
    "iso-8859-8-i": "iso-8859-8", "utf8mb4": "utf-8", "x-unknown": "utf-8", "default": "utf-8",
}  # fmt: skip
# Codecs that are slow on purpose-made input, or decode something else than text.
_REFUSED: Final = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})
_WHITE: Final = re.compile(r"[\s\x00-\x1f\x7f]+")
_WORD: Final = re.compile(r"=\?([^?\s*]{1,60})(?:\*[^?\s]{0,20})?\?([bBqQ])\?([^?]*)\?=")
_PLAIN: Final = re.compile(
    r"(?:(?P<name>[A-Za-z0-9]+(?: [A-Za-z0-9]+)*) <)?"
    r"(?P<address>[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)(?(name)>)"
)
_PLAIN_CHARS: Final = 200
_ADDRESS: Final = re.compile(r"[^\s<>,;\"()]{1,200}@[^\s<>,;\"()]{1,200}")


def decoded(raw: bytes, charset: str | None) -> str:
    """Text from bytes in the charset that was declared, or in the one they are in if that is another."""
    for name in _candidates(charset):
        try:
            return clean_text(raw.decode(name))
        except (UnicodeError, LookupError, ValueError):
            continue
    known = _known(charset) or "ascii"
    return clean_text(raw.decode("cp1252" if known == "ascii" else known, "replace"))


def header_text(raw: object) -> str:
    """A header field as people read it, on one line."""
    text = str(raw)[:MAX_HEADER_CHARS]
    if "=?" in text:
        text = _encoded_words(text)
    return _WHITE.sub(" ", _revived(text)).strip()


def subject_of(raw: object) -> str:
    """A subject, cut where no person reads on."""
    return header_text(raw)[:_MAX_SUBJECT]


def message_id_of(raw: object) -> str | None:
    """A Message-ID without its brackets; None if there is none worth the name."""
    text = _WHITE.sub("", _revived(str(raw)[:MAX_HEADER_CHARS])).strip("<>")
    return text.encode()[:_MAX_MESSAGE_ID_BYTES].decode("utf-8", "ignore") or None


def addresses(raw: Iterable[object]) -> tuple[str, ...]:
    """The addresses of some fields, `Name <user@host>` or bare; what is no address is left as it was written."""
    found: list[str] = []
    for field in raw:
        text = _revived(str(field)[:MAX_HEADER_CHARS])
        if len(text) <= _PLAIN_CHARS and _PLAIN.fullmatch(text):  # most are: the parser would say the same
            found.append(text)
            continue
        try:
            pairs = getaddresses([_WHITE.sub(" ", text)])
        except (RecursionError, ValueError, IndexError):  # comments nested without end, and the like
            pairs = []
        usable = [(header_text(name), address) for name, address in pairs if _ADDRESS.fullmatch(address)]
        if not usable:  # the strict parser gives nothing at all for one bad address among many
            usable = [("", address) for address in _ADDRESS.findall(text)]
        if not usable and text.strip():
            found.append(header_text(text)[:_MAX_ADDRESS])
        found += [(f"{name} <{address}>" if name else address)[:_MAX_ADDRESS] for name, address in usable]
        if len(found) >= MAX_ADDRESSES:
            break
    return tuple(found[:MAX_ADDRESSES])


def date_of(raw: object, received_at: datetime) -> datetime:
    """When it was sent; when it arrived (INTERNALDATE) if its Date is absent, unreadable, or lies."""
    try:
        said = parsedate_to_datetime(str(raw)[:200])
        said = (said if said.tzinfo else said.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError, IndexError):
        return received_at
    early = datetime(1990, 1, 1, tzinfo=UTC)
    return said if early <= said <= received_at + timedelta(days=1) else received_at


def _candidates(charset: str | None) -> Iterable[str]:
    known = _known(charset)
    return dict.fromkeys(name for name in (known, "utf-8") if name)


def _known(charset: str | None) -> str | None:
    """The codec of a declared charset, if it is one that is used."""
    if not charset or len(charset) > 60:
        return None
    name = charset.strip().strip("\"'").lower()
    try:
        codec = codecs.lookup(_ALIASES.get(name, name))
    except (LookupError, ValueError, UnicodeError):
        return None
    # zlib, hex and the like are codecs too: what bytes.decode refuses carries this mark.
    return codec.name if getattr(codec, "_is_text_encoding", True) and codec.name not in _REFUSED else None


def _encoded_words(text: str) -> str:
    """The text with its encoded words decoded; a word that is broken stays as it was written."""
    out: list[str] = []
    pending, charset, end = b"", "", 0
    for word in _WORD.finditer(text):
        between = text[end : word.start()]
        raw = _word_bytes(word[2], word[3])
        # A character may be spread over two words, against the rule: bytes are joined before they are decoded.
        if raw is None or charset != word[1] or between.strip():
            out.append(decoded(pending, charset))
            pending = b""
            out.append(between if between.strip() or not charset else "")
        charset, end = ("", word.end()) if raw is None else (word[1], word.end())
        if raw is None:
            out.append(word[0])
        else:
            pending += raw
    return "".join([*out, decoded(pending, charset), text[end:]])


def _word_bytes(encoding: str, content: str) -> bytes | None:
    plain = content.encode("ascii", "ignore")
    if encoding in "qQ":
        return quopri.decodestring(plain.replace(b"_", b" "), header=True)
    try:
        return binascii.a2b_base64(plain + b"=" * (-len(plain) % 4))
    except binascii.Error:
        return None


def _revived(text: str) -> str:
    """Raw 8-bit bytes, which the parser keeps as surrogates, as the text they most likely are."""
    if text.isascii():
        return text.replace("\x00", "") if "\x00" in text else text
    return decoded(text.encode("utf-8", "surrogateescape"), None) if _has_raw(text) else clean_text(text)


def _has_raw(text: str) -> bool:
    return any(0xDC80 <= ord(char) <= 0xDCFF for char in text)
