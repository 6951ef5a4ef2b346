"""What is hostile about the inside: nesting, boundaries, encodings, sizes, and the kinds of mail that programs send."""

from __future__ import annotations

import base64
import zlib
from typing import Final

from support.corpus_writing import CRLF, TEXT, Kind, attachment, joined, mail, multipart, part, with_file

MIB: Final = 2**20


def _nested(depth: int) -> bytes:
    head = b"".join(
        b'Content-Type: multipart/mixed; boundary="n%d"\r\n\r\n--n%d\r\n' % (number, number) for number in range(depth)
    )
    tail = b"".join(b"\r\n--n%d--" % number for number in reversed(range(depth)))
    return b"From: a@example.org\r\nSubject: nested\r\nMIME-Version: 1.0\r\n" + head + b"\r\nbottom\r\n" + tail


def _forwarded(depth: int) -> bytes:
    raw = mail(b"the innermost\r\n")
    for _ in range(depth):
        raw = mail(raw, b"MIME-Version: 1.0", b"Content-Type: message/rfc822")
    return raw


def _boundaries() -> list[bytes]:
    headers = (b"MIME-Version: 1.0",)
    said = (
        b"multipart/mixed", b"multipart/mixed; boundary", b'multipart/mixed; boundary=""',
        b"multipart/mixed; boundary=-",
        b'multipart/mixed; boundary="', b"multipart/mixed; boundary=" + b"b" * 5000,
        b'multipart/mixed; boundary="(.*)+$"',
        b"multipart/mixed; boundary=b1; boundary=b2", b'multipart/mixed; boundary="b1  "', b"multipart/; boundary=b1",
        b'multipart/mixed; boundary="b\x00\xff1"', b"multipart/mixed; boundary*0=b; boundary*1=1",
    )  # fmt: skip
    inside = joined([TEXT, attachment(b"data", b"a.bin")], b"b1")
    return [mail(inside, *headers, b"Content-Type: " + one) for one in said]


def _unfinished() -> list[bytes]:
    inner = b'Content-Type: multipart/mixed; boundary="b1"'
    return [
        multipart([TEXT, attachment(b"data", b"a.bin")], end=False),
        multipart([TEXT, attachment(b"data" * 1000, b"a.bin")])[:-900],
        multipart([]),
        mail(b"no boundary in here", b"Content-Type: multipart/mixed; boundary=b1"),
        multipart([part(joined([TEXT, TEXT], b"b1"), inner), TEXT]),
        multipart([part(joined([TEXT], b"b11"), b"Content-Type: multipart/mixed; boundary=b11"), TEXT]),
        mail(b"--b1--\r\n--b1\r\n\r\nafter the end\r\n", b"Content-Type: multipart/mixed; boundary=b1"),
        mail(b"--b1\r\n" * 500, b"Content-Type: multipart/mixed; boundary=b1"),
    ]


def _content_types() -> list[bytes]:
    said = (
        b"", b"text", b"text/", b"/plain", b"text/plain/html", b";;;;", b"text/plain; =; ==", b"\xff\xfe", b"a" * 5000,
        b"text/plain; charset", b'text/plain; charset="utf-8', b"TEXT/PLAIN; CHARSET==?utf-8?Q?x?=",
        b"multipart/mixed/",
        b"text/plain; name*0*=utf-8''a; name*2=c; name*999999=z; name*x=y", b"message/rfc822; x=y", b"image/\x00png",
    )  # fmt: skip
    return [mail(b"some body\r\n", b"MIME-Version: 1.0", b"Content-Type: " + one) for one in said]


def _long_parameters() -> list[bytes]:
    many = b"".join(b"; p%d=%d" % (number, number) for number in range(20_000))
    pieces = b"".join(b";\r\n name*%d=abcdefgh" % number for number in range(3000))
    quotes = b'; a="' + b'\\"' * 50_000 + b'"'
    return [mail(b"x", b"Content-Type: text/plain" + one) for one in (many, pieces, quotes)]


def _base64() -> list[bytes]:
    headers = (b"Content-Type: text/plain", b"Content-Transfer-Encoding: base64")
    good = base64.b64encode("Grüße aus Köln".encode())
    said = (
        good[:-1],
        good[:-2],
        b"!!!!" + good,
        good + b"=====",
        b"=" * 100,
        b"A",
        good[:5] + b"\x00\xff" + good[5:],
        b"",
    )
    return [mail(one, *headers) for one in said]


def _quoted_printable() -> list[bytes]:
    headers = (b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: quoted-printable")
    said = (b"=", b"=G", b"=ZZ=Q=", b"a=\r\n=\r\n=\r\n", b"=C3", b"=00=00", b"=3D" * 50_000, "raw ü".encode())
    return [mail(one, *headers) for one in said]


def _transfer_encodings() -> list[bytes]:
    names = (
        b"x-klingon",
        b"7bit",
        b"binary",
        b"gzip",
        b"base64, base64",
        b"\xff",
        b"x-uuencode",
        b"yenc",
        b"BASE64 (c)",
    )
    wrapped = mail(base64.encodebytes(joined([TEXT], b"b1")), b"Content-Type: multipart/mixed; boundary=b1",
                   b"Content-Transfer-Encoding: base64")  # fmt: skip
    return [mail(b"\xff\xfe raw bytes", b"Content-Transfer-Encoding: " + name) for name in names] + [wrapped]


def _uuencode() -> list[bytes]:
    good = b"begin 644 a.txt\r\n#86)C\r\n`\r\nend\r\n"
    bodies = (good, b"begin 644 ../../x\r\n#86)C\r\n", b"begin\r\n~~~~\r\nend\r\n", b"begin 777 a\r\n" + b"\x80" * 60)
    return [mail(body, b"Content-Transfer-Encoding: x-uuencode") for body in bodies] + [mail(b"Hi\r\n" + good)]


def _line_ends() -> list[bytes]:
    raw = multipart([TEXT, attachment(b"data", b"a.bin")])
    return [
        raw.replace(CRLF, b"\n"), raw.replace(CRLF, b"\r"), raw.replace(CRLF, b"\r\r\n"), raw.replace(CRLF, b"\n\r"),
        mail(b"a\rb\nc\r\nd\r\r\n\x0b\x0c\x1c\x85"), mail(b"\r\n.\r\n..\r\nFrom me\r\n>From you\r\n"), mail(b"no end"),
    ]  # fmt: skip


def _bounces() -> list[bytes]:
    told = part(b"It did not arrive.\r\n", b"Content-Type: text/plain")
    status = (
        b"Reporting-MTA: dns; mx.example.org\r\n\r\nFinal-Recipient: rfc822; gone@example.org\r\nAction: failed\r\n"
        b"Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 No such user\r\n"
    )
    report = part(status, b"Content-Type: message/delivery-status")
    back = part(mail(b"the first mail"), b"Content-Type: message/rfc822")
    kind = b"report; report-type=delivery-status"
    nobody = (b"From: MAILER-DAEMON@mx.example.org", b"Return-Path: <>", b"Auto-Submitted: auto-replied")
    read = part(b"Disposition: manual-action/MDN-sent-manually; displayed\r\n",
                b"Content-Type: message/disposition-notification")  # fmt: skip
    return [
        multipart([told, report, back], kind=kind),
        multipart([told, report], kind=kind),
        multipart(
            [told, part(b"\xff: \x00\r\n\r\n\r\n\r\n:\r\n", b"Content-Type: message/delivery-status")], kind=kind
        ),
        multipart([told, read], kind=b"report; report-type=disposition-notification"),
        multipart(
            [told, part(b"Feedback-Type: abuse\r\n", b"Content-Type: message/feedback-report"), back], kind=b"report"
        ),
        mail(b"Undelivered: gone@example.org\r\n", *nobody),
    ]


def _invites() -> list[bytes]:
    event = (
        b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nMETHOD:%s\r\nBEGIN:VEVENT\r\nUID:e1@example.org\r\n"
        b"DTSTART:20240301T100000Z\r\nSUMMARY:Review\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    calls = [
        part(event % method, b"Content-Type: text/calendar; charset=utf-8; method=" + method)
        for method in (b"REQUEST", b"CANCEL")
    ]
    whole = [
        multipart([TEXT, call, attachment(event, b"invite.ics", b"text/calendar")], kind=b"alternative")
        for call in calls
    ]
    return [
        *whole,
        mail(event, b"Content-Type: text/calendar"),
        mail(b"BEGIN:VCALENDAR\r\n\xff", b"Content-Type: text/calendar"),
    ]


def _signed() -> list[bytes]:
    kind = b'signed; protocol="application/pkcs7-signature"; micalg=sha-256'
    blob = attachment(b"\x30\x82\x01\x00" + bytes(256), b"smime.p7s", b"application/pkcs7-signature")
    pgp = part(b"-----BEGIN PGP SIGNATURE-----\r\n\r\nx\r\n-----END PGP SIGNATURE-----\r\n",
               b"Content-Type: application/pgp-signature")  # fmt: skip
    return [multipart([TEXT, blob], kind=kind), multipart([TEXT, pgp], kind=b"signed"), multipart([blob], kind=kind)]


def _opaque() -> list[bytes]:
    data = base64.encodebytes(b"\x30\x80\x06\x09*\x86H\x86\xf7\r\x01\x07\x03" + bytes(range(256)))
    encoding = b"Content-Transfer-Encoding: base64"
    return [
        mail(data, b'Content-Type: application/pkcs7-mime; smime-type=%s; name="smime.p7m"' % kind, encoding)
        for kind in (b"enveloped-data", b"signed-data", b"compressed-data")
    ]


def _tnef() -> list[bytes]:
    data = b"\x78\x9f\x3e\x22\x01\x00" + bytes(300)
    return [
        with_file(data, b'"winmail.dat"', b"application/ms-tnef"),
        with_file(data[:3], b"winmail.dat", b"application/ms-tnef"),
    ]


def _programs() -> list[bytes]:
    parts = {
        b"related": b"<cid:loop>",
        b"digest": b"",
        b"appledouble": b"",
        b"parallel": b"",
        b"x-new": b"",
        b"form-data": b"",
    }
    made = [
        multipart([TEXT, attachment(body or b"x", b"a.png", b"image/png")], kind=kind) for kind, body in parts.items()
    ]
    kinds = (b"message/partial; id=x; number=1; total=3",
             b"message/external-body; access-type=local-file; name=/etc/passwd",
             b"message/http", b"text/rfc822-headers", b"message/global", b"application/x-msdownload")  # fmt: skip
    return made + [mail(b"GET / HTTP/1.1\r\n\r\n", b"Content-Type: " + kind) for kind in kinds]


def _bombs() -> list[bytes]:
    packed = zlib.compress(bytes(50 * MIB), 9)
    html = b"<div>" * 200_000
    entities = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>'
    return [
        with_file(packed, b"zeros.z", b"application/zlib"), mail(html, b"Content-Type: text/html"),
        with_file(entities, b"bomb.xml", b"application/xml"), mail(b"a" * (3 * MIB), b"Content-Type: text/html"),
    ]  # fmt: skip


def _big() -> list[bytes]:
    return [
        with_file(bytes(range(256)) * (30 * MIB // 256), b"big.bin"),
        mail(b"x" * (30 * MIB)),
        mail((b"y" * 70 + CRLF) * (27 * MIB // 72), b"Subject: 27 MB of text"),
    ]


def _empty_parts() -> list[bytes]:
    return [multipart([b""] * 900), multipart([part(b"")] * 900), multipart([attachment(b"", b"empty.txt")])]


KINDS: Final = (
    Kind("multiparts 3,000 deep", lambda: [_nested(3000)], "quarantined"),
    Kind("multiparts 40 deep", lambda: [_nested(40)]),
    Kind("multiparts 300 deep", lambda: [_nested(300)], "quarantined"),
    Kind("a message in a message, three deep", lambda: [_forwarded(1), _forwarded(3)]),
    Kind("messages 600 deep", lambda: [_forwarded(600)], "quarantined"),
    Kind(
        "10,000 attachments",
        lambda: [multipart([attachment(b"%d" % n, b"a%d.txt" % n) for n in range(10_000)])],
        "either",
    ),
    Kind("500 attachments", lambda: [multipart([attachment(b"%d" % n, b"a%d.txt" % n) for n in range(500)])]),
    Kind("10,000 empty parts", lambda: [multipart([b""] * 10_000)], "either"),
    Kind("parts with nothing in them", _empty_parts),
    Kind("boundaries that are none", _boundaries),
    Kind("broken and unfinished multiparts", _unfinished),
    Kind("Content-Type garbage", _content_types),
    Kind("Content-Type of 100 KB", _long_parameters, "either"),
    Kind("broken base64", _base64),
    Kind("broken quoted-printable", _quoted_printable),
    Kind("transfer encodings nobody knows", _transfer_encodings),
    Kind("uuencode, whole and broken", _uuencode),
    Kind("bare LF, bare CR, and worse", _line_ends),
    Kind("bounces and receipts (RFC 3464, 8098, 5965)", _bounces),
    Kind("calendar invites", _invites),
    Kind("S/MIME and PGP, signed", _signed),
    Kind("S/MIME, opaque", _opaque),
    Kind("winmail.dat", _tnef),
    Kind("kinds of parts that programs send", _programs),
    Kind("bombs: deflate, HTML, entities", _bombs),
    Kind("27 to 40 MB", _big),
    Kind("a million empty lines", lambda: [mail(CRLF * 1_100_000)], "either"),
    Kind(
        "the same file twice", lambda: [multipart([TEXT, attachment(b"same", b"a.txt"), attachment(b"same", b"a.txt")])]
    ),
)
