"""A message from its bytes: whatever a sender wrote, it is read as far as it can be, or refused with a reason, soon."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import compat32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beatline_tasks.email.parse import Unreadable, parse, parse_headers, read

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def nested(depth: int, kind: str = "multipart/mixed") -> bytes:
    """A message in a message in a message."""
    parts = (f'Content-Type: {kind}; boundary="b{n}"\r\n\r\n--b{n}\r\n' for n in range(depth))
    return ("Subject: deep\r\n" + "".join(parts) + "\r\nend").encode()


def multipart(*parts: bytes, kind: str = "mixed") -> bytes:
    """A message of these parts."""
    head = f'Subject: parts\r\nContent-Type: multipart/{kind}; boundary="x"\r\n\r\n'.encode()
    return head + b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (nested(60), "nested more than 50 deep"),
        (nested(3000), "too much work"),
        (b"Content-Type: message/rfc822\r\n\r\n" * 60 + b"Subject: x\r\n\r\n", "nested more than 50 deep"),
        (multipart(*[b"\r\nx"] * 1100), "more than 1,000 parts"),
        (b"Subject: x\r\n\r\n" + b"\n" * 1_100_000, "lines"),
        (b"Subject: x\r\n\r\n" + b"\r" * 1_100_000, "lines"),
        (b"Content-Type: multipart/mixed; x=" + b';"' * 100_000 + b"\r\n\r\nx", "Content-Type"),
        (b"Subject: x\r\n\r\nContent-Disposition: x" + b"\r\n ;" * 30_000, "Content-Disposition"),
    ],
)
def test_what_would_take_too_long_is_refused_at_once(raw: bytes, words: str) -> None:
    began = time.process_time()
    with pytest.raises(Unreadable, match=words):
        parse(raw, NOW)
    assert time.process_time() - began < 3


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused_and_can_be_stored(raw: bytes) -> None:
    _storable(raw)


@given(st.lists(st.sampled_from([
    b"Content-Type: multipart/mixed; boundary=x\r\n", b"Content-Type: text/plain; charset=", b"zlib", b"punycode",
    b"utf-7", b"\r\n", b"--x\r\n", b"--x--", b"Content-Transfer-Encoding: base64\r\n", b"x-uuencode", b"begin 644 a\r\n",
    b"=?utf-8?b?", b"=?x?q?=00?=", b"\x00", b"\xff\xfe", b"Subject: ", b"From: ((((", b"filename*1*=a'b'%ff;", b"<>",
    b"Content-Disposition: attachment; ", b"Date: 99", b"Content-Type: message/rfc822\r\n\r\n", b"quoted-printable",
]), max_size=30))  # fmt: skip
def test_broken_mail_is_read_or_refused_and_can_be_stored(pieces: list[bytes]) -> None:
    _storable(b"".join(pieces))


def _storable(raw: bytes) -> None:
    try:
        parsed = parse(raw, NOW)
    except Unreadable:
        return
    texts = [parsed.message_id, parsed.subject, parsed.sender, *parsed.recipients, parsed.text, parsed.html]
    for said in [*texts, *(part for file in parsed.attachments for part in (file.name, file.content_type))]:
        assert "\x00" not in (said or "")
        (said or "").encode()
    assert all("/" not in file.name and "\\" not in file.name for file in parsed.attachments)


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("bogus", "grün".encode(), "grün"),
        ("us-ascii", "grün".encode(), "grün"),
        ("utf-8", "grün".encode("latin-1"), "gr\ufffdn"),
        ("us-ascii", "grün".encode("latin-1"), "grün"),
        ("gb2312", "镕".encode("gb18030"), "镕"),
        ("zlib", b"abc", "abc"),
        ("punycode", b"abc", "abc"),
        ("iso-8859-1", b"\x80", "€"),
        ("utf-8", b"a\x00b", "ab"),
        ('"utf-8', b"abc", "abc"),
    ],
)
def test_a_charset_may_be_unknown_or_lie(charset: str, body: bytes, text: str) -> None:
    raw = b"Content-Type: text/plain; charset=" + charset.encode() + b"\r\n\r\n" + body
    assert parse(raw, NOW).text == text


def test_8_bit_header_fields_are_read() -> None:
    parsed = parse("Subject: über\r\nFrom: Jörg <j@x.y>\r\nTo: Ägir <a@x.y>\r\n\r\n".encode(), NOW)
    assert (parsed.subject, parsed.sender, parsed.recipients) == ("über", "Jörg <j@x.y>", ("Ägir <a@x.y>",))
    assert parse("Subject: über\r\n\r\n".encode("latin-1"), NOW).subject == "über"


def test_what_is_no_body_is_kept_as_a_file() -> None:
    parsed = parse(
        multipart(
            b"Content-Type: text/plain\r\n\r\nhello",
            b"Content-Type: text/html\r\n\r\n<b>hello</b>",
            b'Content-Type: application/ms-tnef; name="winmail.dat"\r\n\r\nTNEF',
            b"Content-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR",
            b'Content-Type: application/pkcs7-signature; name="smime.p7s"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
            + base64.b64encode(b"signed"),
            b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nforwarded",
            b"Content-Type: text/plain\r\nContent-Disposition: attachment; filename=notes.txt\r\n\r\nnotes",
            b"Content-Type: image/png\r\nContent-ID: <logo@x>\r\n\r\nPNG",
        ),
        NOW,
    )
    assert (parsed.text, parsed.html) == ("hello", "<b>hello</b>")
    assert [(file.name, file.data[:16]) for file in parsed.attachments] == [
        ("winmail.dat", b"TNEF"),
        ("attachment-4.ics", b"BEGIN:VCALENDAR"),
        ("smime.p7s", b"signed"),
        ("attachment-6.eml", b"Subject: inner\n\n"),
        ("notes.txt", b"notes"),
        ("attachment-8.png", b"PNG"),
    ]
    assert parsed.attachments[-1].content_id == "logo@x"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ('name="../../etc/passwd"', "passwd"),
        ('name="C:\\\\Windows\\\\x.exe"', "x.exe"),
        ("name*=utf-8''%E2%82%AC.pdf", "€.pdf"),
        ("name*0=a; name*1=b.pdf", "ab.pdf"),
        ('name="=?utf-8?b?w7w=?=.pdf"', "ü.pdf"),
        ('name="CON.txt"', "_CON.txt"),
        ('name="\u202etxt.exe"', "txt.exe"),
        ('name="..."', "attachment-1.pdf"),
        ("name*0*=bogus'x'%ff; name*1=y", "ÿy"),
    ],
)
def test_names_of_files_are_made_safe(said: str, name: str) -> None:
    raw = b"Content-Type: application/pdf; " + said.encode() + b"\r\n\r\nx"
    [file] = parse(raw, NOW).attachments
    assert file.name == name


@pytest.mark.parametrize(
    ("head", "automatic", "bounce"),
    [
        ("X: y", False, False),
        ("Auto-Submitted: no", False, False),
        ("Auto-Submitted: auto-replied; owner=x", True, False),
        ("Precedence: bulk", True, False),
        ("X-Auto-Response-Suppress: All", True, False),
        ("Return-Path: <>\r\nFrom: MAILER-DAEMON@x", True, True),
        ("Content-Type: multipart/report; report-type=delivery-status; boundary=x", True, True),
        ("Content-Type: message/delivery-status", True, True),
        ("Content-Type: multipart/report; report-type=feedback-report; boundary=x", False, False),
    ],
)
def test_answers_of_machines_and_bounces_are_told(head: str, automatic: bool, bounce: bool) -> None:
    parsed = parse(head.encode() + b"\r\n\r\n--x\r\n\r\ntext\r\n--x--\r\n", NOW)
    assert (parsed.auto_submitted, parsed.bounce) == (automatic, bounce)


def test_the_header_alone_says_who_and_what() -> None:
    parsed = parse_headers(b"Subject: big\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nbody", NOW)
    assert (parsed.subject, parsed.text, parsed.attachments) == ("big", "", ())


_PIECES = st.sampled_from(
    [
        *(
            b"Subject: a",
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Type: multipart/mixed; boundary=x",
            b"--x",
        ),
        *(
            b"Content-Type: message/rfc822",
            b"Content-Type: multipart/mixed",
            b"From a@b",
            b" folded",
            b"no header",
            b"\xff",
        ),
        *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\n\n", b"\r\r\n", b"\x0b", b"x" * 9000, b":"),
    ]
)


@given(st.lists(_PIECES, max_size=12))
def test_a_message_is_read_as_the_library_reads_it(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    ours, theirs = read(raw), message_from_bytes(raw, policy=compat32)
    assert ours.items() == message_from_bytes(raw, policy=ours.policy).items()
    assert ours.get_unixfrom() == theirs.get_unixfrom()
    for mine, other in zip(ours.walk(), theirs.walk(), strict=True):
        assert mine.keys() == other.keys()
        assert mine.is_multipart() or mine.get_payload() == other.get_payload()
        assert list(map(type, mine.defects)) == list(map(type, other.defects))
