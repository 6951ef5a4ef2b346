"""What is hostile about the names of attachments: they become names of files where nobody takes care."""

from __future__ import annotations

import base64
from typing import Final

from support.corpus_writing import TEXT, Kind, multipart, part, with_file

_RTL: Final = "invoice\u202egnp.exe"


def _named(*names: bytes) -> list[bytes]:
    return [with_file(b"data", name) for name in names]


def _quoted(*names: str) -> list[bytes]:
    return _named(*[b'"' + name.encode() + b'"' for name in names])


def _by_type(name: bytes) -> bytes:
    return multipart([TEXT, part(b"data", b"Content-Type: application/pdf; name=" + name)])


def _rfc2231() -> list[bytes]:
    said = (
        b"filename*=utf-8''%2e%2e%2f%2e%2e%2fetc%2fpasswd", b"filename*=x-klingon''a%ff", b"filename*=a",
        b"filename*0*=utf-8''..%2f; filename*1=..%2f; filename*2*=x", b"filename*0=a; filename*0=b; filename*7=c",
        b"filename*=utf-8'en'" + b"%e6%9c%ac" * 200, b"filename*=utf-8''%00%0a%0d", b"filename*=''", b"filename*1=b",
        b"filename*=idna''x" + b"%ff" * 50, b"filename=plain.txt; filename*=utf-8''other.txt",
    )  # fmt: skip
    return [
        multipart([TEXT, part(b"data", b"Content-Type: text/plain", b"Content-Disposition: attachment; " + one)])
        for one in said
    ]


def _encoded() -> list[bytes]:
    word = b'"=?utf-8?B?' + base64.b64encode(b"../../../root/.ssh/authorized_keys") + b'?="'
    return _named(
        word, b"=?utf-8?Q?=2E=2E=2Fx?=", b'"=?gb2312?B?' + base64.b64encode("报表.xlsx".encode("gbk")) + b'?="'
    )


KINDS: Final = (
    Kind(
        "names with ../",
        lambda: _quoted("../../../etc/passwd", "..", ".", "a/../../b", "....//x", "/etc/passwd", "~/.ssh"),
    ),
    Kind(
        "names of Windows paths",
        lambda: _quoted("C:\\\\Windows\\\\x.dll", "\\\\\\\\host\\\\share", "..\\\\..\\\\x", "a:b", "D:"),
    ),
    Kind(
        "names of devices",
        lambda: _quoted("CON", "con.txt", "NUL", "COM1.pdf", "LPT9", "aux.tar.gz", "CLOCK$", "a.", "b "),
    ),
    Kind("names that turn around (RTL)", lambda: _quoted(_RTL, "\u2066a\u2069.txt", "\u200b\u200b", "a\u0000b.txt")),
    Kind(
        "names of 300 bytes and more",
        lambda: _quoted("n" * 300 + ".pdf", "本" * 120 + ".txt", "a." + "b" * 300, "." * 300),
    ),
    Kind("empty names", lambda: _named(b'""', b"", b'" "', b'"\t"', b"''")),
    Kind(
        "names with quotes, pipes, and markup",
        lambda: _quoted("$(id)", "`id`", "a|b", "<img src=x>", "-rf", "a;b", "%s%n", 'a\\"b'),
    ),
    Kind(
        "names with raw bytes and NUL",
        lambda: _named(b'"\xff\xfe.txt"', b'"a\x00.exe"', b'"a\x1b[2J.txt"', b'"\xe4\xf6.txt"'),
    ),
    Kind("names by RFC 2231, broken", _rfc2231),
    Kind("names in encoded-words", _encoded),
    Kind(
        "names in Content-Type only",
        lambda: [_by_type(b'"../../a.pdf"'), _by_type(b""), _by_type(b'"a.pdf'), _by_type(b"\xff")],
    ),
    Kind(
        "dangerous kinds of files",
        lambda: _quoted("a.exe", "a.pdf.exe", "a.html", "a.lnk", ".htaccess", ".bashrc", "a.svg"),
    ),
)
