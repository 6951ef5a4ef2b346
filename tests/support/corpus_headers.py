"""What is hostile about header fields: charsets, raw bytes, dates, ids, addresses, lengths."""

from __future__ import annotations

import base64
from typing import Final

from support.corpus_writing import CRLF, Kind, mail

LATIN: Final = "Grüße aus Köln".encode("latin-1")
CHINESE: Final = "本月报表"


def _body(content_type: bytes, body: bytes, *more: bytes) -> bytes:
    return mail(body, b"MIME-Version: 1.0", b"Content-Type: " + content_type, *more)


def _charsets(*names: bytes, body: bytes = LATIN) -> list[bytes]:
    return [_body(b'text/plain; charset="' + name + b'"', body) for name in names]


def _lying() -> list[bytes]:
    return [
        _body(b"text/plain; charset=utf-8", LATIN),
        _body(b"text/plain; charset=us-ascii", "Grüße".encode()),
        _body(b"text/plain; charset=utf-16", b"odd number of ascii bytes"),
        _body(b"text/plain; charset=gb2312", "镕 and 囧".encode("gb18030")),
        _body(b"text/plain; charset=iso-2022-jp", b"\x1b$B\xff\xff never ends"),
        _body(b"text/plain; charset=utf-7", b"+ADw-script+AD4- +AGEAYgBj"),
        _body(b"text/html; charset=iso-8859-1", '<meta charset="utf-8"><p>Grüße'.encode()),
    ]


def _broken_utf8() -> list[bytes]:
    broken = (b"\xed\xa0\x80 lone surrogate", b"\xc0\x80 overlong", b"\xf4\x90\x80\x80 too high", b"cut \xe6\x9c")
    return [_body(b"text/plain; charset=utf-8", one) for one in broken]


def _encoded_words() -> list[bytes]:
    whole = base64.b64encode(CHINESE.encode())
    return [
        mail(b"x", b"Subject: =?utf-8?B?" + whole[:7]),
        mail(b"x", b"Subject: =?utf-8?B?" + whole[:7] + b"?= =?utf-8?B?" + whole[7:] + b"?="),
        mail(b"x", b"Subject: =?utf-8?B?!!!!?= and =?utf-8?Q?=ZZ=?="),
        mail(b"x", b"Subject: =?x-klingon?Q?=FF=FE?= =??Q?a?= =?utf-8??a?= =?utf-8?X?a?="),
        mail(b"x", b"Subject: =?utf-8?Q?=?utf-8?Q?nested?=?="),
        mail(b"x", b"Subject: =?utf-8?Q?a?=" + b"=?utf-8?Q?b?=" * 5000),
        mail(b"x", b"Subject: " + b"=?" * 20_000),
        mail(b"x", b"Subject: =?utf-8?Q?NUL_=00_here?=", b"From: =?utf-8?Q?=0D=0ABcc:_x?= <a@example.org>"),
    ]


def _raw_8bit() -> list[bytes]:
    names = ("utf-8", "gbk", "shift_jis", "utf-16-le")
    return [mail(b"x", b"Subject: " + LATIN, b"From: " + LATIN + b" <k@example.org>")] + [
        mail(b"x", b"Subject: " + CHINESE.encode(name, "replace").replace(b"\n", b"").replace(b"\r", b""))
        for name in names
    ]


def _absurd_dates() -> list[bytes]:
    dates = (
        b"Mon, 01 Jan 0001 00:00:00 +0000", b"Fri, 31 Dec 9999 23:59:59 -1200", b"Mon, 1 Jan 99999 00:00:00 +0000",
        b"yesterday", b"Thu, 30 Feb 2024 10:00:00 +0000", b"Mon, 12 Feb 2024 25:61:61 +0000",
        b"Mon, 12 Feb 2024 10:00:00 +9999", b"Mon, 12 Feb 2024 10:00:00 " + b"9" * 500, b"-1", b"", b"\xff\xfe",
        b"Tue, 19 Jan 2038 03:14:08 +0000", b"1 Jan 24", b"0", b"Mon, 12 Feb -2024 10:00:00 +0000",
    )  # fmt: skip
    return [mail(b"x", b"Date: " + date) for date in dates]


def _message_ids() -> list[bytes]:
    said = (b"", b" ", b"<>", b"<  >", b"no brackets", b"<a@b> <c@d>", b"<" + b"x" * 10_000 + b"@example.org>",
            b"<nul\x00@example.org>", b"<\xff\xfe@example.org>", b"<a\r\n @b>",
            b"<" + "".join(chr(0x4E00 + number * 7919 % 20_902) for number in range(990)).encode() + b"@example.org>")  # fmt: skip
    return [mail(b"body %d" % number, b"Message-ID: " + one) for number, one in enumerate(said)]


def _senders() -> list[bytes]:
    said = (
        b"", b"@", b"<>", b"a@b@c@d", b"(" * 2000, b'"' + b"\\" * 3001, b"Group: a@x.org, b@x.org;", b"<" * 3000,
        b'"bea@bank.example" <eve@evil.example>', b"a@[127.0.0.1]", "ü@bücher.example".encode(), b"," * 5000,
        b"a b c d e f", b"\x1b[31mred\x1b[0m <a@example.org>",
    )  # fmt: skip
    return [mail(b"x", b"From: " + one) for one in said]


def _recipients() -> list[bytes]:
    many = b",\r\n ".join(b"user%d@example.org" % number for number in range(10_000))
    return [mail(b"x", b"To: " + many), mail(b"x", *[b"To: user%d@example.org" % n for n in range(2000)])]


def _twins() -> list[bytes]:
    return [mail(b"copy %d" % number, b"Message-ID: <twin@example.org>") for number in range(3)] + [
        mail(b"exactly the same", b"Message-ID: <same@example.org>")
    ] * 2


def _repeated() -> list[bytes]:
    twice = (b"Subject: one", b"Subject: two", b"From: a@x.org", b"From: b@x.org", b"Date: x", b"Date: y")
    types = (b"Content-Type: text/html", b"Content-Type: multipart/mixed; boundary=x", b"Content-Type: image/png")
    return [
        mail(b"x", *twice),
        mail(b"--x\r\n\r\na\r\n--x--", *types),
        mail(b"x", b"Message-ID: <a@b>", b"Message-ID: <c@d>"),
    ]


def _malformed_lines() -> list[bytes]:
    return [
        b"this is no header\r\nSubject: x\r\n\r\nbody",
        b" continuation first\r\nSubject: x\r\n\r\nbody",
        b"Subject : space before the colon\r\n: no name\r\n\r\nbody",
        mail(b"x", b"Subject: one\r\n\ttwo\r\n   \r\n three"),
        b"From someone Mon Feb 12 10:00:00 2024\r\nSubject: mbox line\r\n\r\nbody",
        mail(b"x", b"Subject: tab\tbell\x07escape\x1b[2J", b"X-\x00Y: z"),
        mail(b"x", b"Subject: a\rBcc: b", b"Subject: line separator \xe2\x80\xa8 here"),
    ]


def _automatic() -> list[bytes]:
    return [
        mail(b"away", b"Auto-Submitted: auto-replied"), mail(b"list", b"Precedence: bulk", b"List-Id: <l.example.org>"),
        mail(b"loop", *[b"Received: from a by b; Mon, 12 Feb 2024 10:00:00 +0100"] * 500),
    ]  # fmt: skip


_HUGE: Final = b"x" * 2**20
_FOLDED: Final = (CRLF + b" ").join([b"word"] * 50_000)
CODECS: Final = (b"zip", b"hex", b"base64", b"rot13", b"idna", b"punycode", b"unicode_escape", b"undefined", b"mbcs")

KINDS: Final = (
    Kind("ordinary mail, for comparison", lambda: [mail(), mail(b"x" * 2000), _body(b"text/html", b"<p>Hello")]),
    Kind("unknown charsets", lambda: _charsets(b"x-klingon", b"unknown-8bit", b"utf-99", b"8bit", b"")),
    Kind("charsets that lie", _lying),
    Kind("charset names as an attack", lambda: _charsets(b"../../etc/passwd", b"x" * 1000, b"a\x00b", b"\xff", b"%s")),
    Kind("charsets that name no text codec", lambda: _charsets(*CODECS)),
    Kind("UTF-8 that is none", _broken_utf8),
    Kind("encoded-words broken in the middle", _encoded_words),
    Kind("raw 8-bit headers", _raw_8bit),
    Kind("NUL in header and body", lambda: [mail(b"a\x00b\x00", b"Subject: a\x00b", b"From: a\x00@example.org")]),
    Kind("no Date", lambda: [mail(b"x", usual=False), mail(b"x", b"From: a@example.org", usual=False)]),
    Kind("absurd dates", _absurd_dates),
    Kind("duplicate Message-IDs", _twins),
    Kind("no Message-ID", lambda: [mail(b"first", b"From: a@b.org", usual=False)] * 2),
    Kind("empty and malformed Message-IDs", _message_ids),
    Kind("senders that are no addresses", _senders),
    Kind("10,000 recipients", _recipients),
    Kind("headers twice", _repeated),
    Kind("lines that are no headers", _malformed_lines),
    Kind("a header of 1 MB", lambda: [mail(b"x", b"Subject: " + _HUGE), mail(b"x", b"X-Huge: " + _HUGE)]),
    Kind("a header of 50,000 folded lines", lambda: [mail(b"x", b"Subject: " + _FOLDED)]),
    Kind("100,000 headers", lambda: [mail(b"x", *[b"X-%d: y" % number for number in range(100_000)])]),
    Kind("a References of 1 MB", lambda: [mail(b"x", b"References: " + b"<a@b> " * 170_000)]),
    Kind("automatic mail and loops", _automatic),
    Kind("no From, no Subject", lambda: [mail(b"x", b"X-Only: this", usual=False)]),
    Kind("headers without a body", lambda: [b"Subject: only this\r\n", b"Subject: cut", b"Subject: x\r\n\r\n"]),
    Kind("a body without headers", lambda: [b"\r\njust text\r\n", b"just text and nothing else"]),
    Kind("empty messages", lambda: [b"\r\n", b"\n", b" ", b"\r\n\r\n\r\n"]),
)  # fmt: skip
