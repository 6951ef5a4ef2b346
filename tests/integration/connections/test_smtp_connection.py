"""Connections to a real SMTP server: over STARTTLS, TLS and in the clear, and what `check` says when they fail."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from beatline.connections import ConnectionFaultError, smtp
from beatline.connections.actions import check
from beatline.connections.smtp import smtp_session
from beatline.errors import AddressRefusedError, TransientError
from support.certificates import make_certificate
from support.connecting import add_connection
from support.smtp import Security, SmtpServer, smtp_server

if TYPE_CHECKING:
    from beatline.installation import Installation


@pytest.fixture(params=["plain", "starttls", "tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmtpServer]:
    """A server that wants a login, whose certificate the process trusts."""
    with serving(tmp_path, monkeypatch, request.param) as server:
        yield server


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch, security: Security) -> Generator[SmtpServer]:
    with smtp_server(folder, security=security, login=True) as server:
        if server.certificate is not None:
            monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate.file))
        yield server


def resolve_as(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    """Let the resolver know a name, as a record in DNS would."""
    known = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return known(address if host == name else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def spec(server: SmtpServer, **more: Any) -> dict[str, Any]:
    given = {"url": server.url, "security": server.security, "user": server.user, "password": server.password}
    return {k: v for k, v in (given | more).items() if v is not None}


def test_a_mail_goes_over_every_kind_of_way(ours: Installation, server: SmtpServer) -> None:
    add_connection(ours, "mail", **spec(server))
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Hello"
    message.set_content("Hi")
    with smtp_session(ours, "mail") as session:
        session.send_message(message)
    assert [(got.user, got.encrypted) for got in server.of("b@example.com")] == [
        (server.user, server.security != "plain")
    ]


def test_check_says_how_the_way_is_protected(ours: Installation, server: SmtpServer) -> None:
    finding = check(ours, add_connection(ours, "mail", **spec(server)))
    words = {
        "plain": f"not encrypted, logged in as {server.user}. The password travels in the clear.",
        "starttls": f"encrypted (STARTTLS), logged in as {server.user}.",
        "tls": f"encrypted (TLS), logged in as {server.user}.",
    }
    assert finding.ok
    assert finding.text == f"It works: 127.0.0.1:{server.port}, {words[server.security]}"
    assert finding.details["largest_message_bytes"] > 0


def test_a_wrong_password_is_told_and_never_shown(ours: Installation, server: SmtpServer) -> None:
    finding = check(ours, add_connection(ours, "mail", **spec(server, password="hush-hush")))
    assert not finding.ok
    assert f"it refuses the user {server.user!r} or the password (535" in finding.text
    assert "hush" not in finding.text


@pytest.mark.parametrize(
    ("speaks", "declared", "words"),
    [
        ("plain", "starttls", "it offers no STARTTLS: set security to tls or plain"),
        ("plain", "tls", "it does not speak TLS there; security may have to be starttls"),
        ("tls", "starttls", "set security to tls"),
    ],
)
def test_another_protection_than_declared_is_told(
    ours: Installation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speaks: Security,
    declared: Security,
    words: str,
) -> None:
    monkeypatch.setattr(smtp, "_TIMEOUT_S", 2.0)  # of two that both wait for the other to begin
    with serving(tmp_path, monkeypatch, speaks) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        finding = check(ours, add_connection(ours, "mail", **spec(server, url=url, security=declared)))
    assert not finding.ok
    assert words in finding.text or (speaks == "tls" and "it does not answer in time" in finding.text)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_is_not_trusted_or_of_another_name_is_refused(
    ours: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, security: Security
) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    with serving(tmp_path, monkeypatch, security) as server:
        definition = add_connection(ours, "mail", **spec(server))
        resolve_as(monkeypatch, "mail.test", "127.0.0.1")
        named = add_connection(ours, "named", **spec(server, url=server.url.replace("127.0.0.1", "mail.test")))
        refused = check(ours, named)
        assert "its certificate is not trusted: Hostname mismatch" in refused.text
        assert "mail.test" in refused.text
        monkeypatch.setenv("SSL_CERT_FILE", str(other.file))
        refused = check(ours, definition)
        assert not refused.ok
        assert "its certificate is not trusted: " in refused.text


def test_a_server_that_refuses_or_is_not_there_is_told(ours: Installation) -> None:
    absent = add_connection(ours, "absent", url="smtp://127.0.0.1:1")
    assert "it refuses the connection: no server listens there" in check(ours, absent).text
    unknown = add_connection(ours, "unknown", url="smtp://mail.invalid")
    assert "The name 'mail.invalid' cannot be resolved" in check(ours, unknown).text


def test_a_server_that_is_busy_may_pass_and_one_that_says_no_does_not(ours: Installation) -> None:
    for greeting, expected in ((b"421 busy\r\n", TransientError), (b"554 go away\r\n", ConnectionFaultError)):
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def answer(listening: socket.socket = listening, greeting: bytes = greeting) -> None:
                accepted, _ = listening.accept()
                with accepted:
                    accepted.sendall(greeting)

            thread = threading.Thread(target=answer)
            thread.start()
            name = f"mail{greeting[:3].decode()}"
            add_connection(ours, name, url=f"smtp://127.0.0.1:{listening.getsockname()[1]}")
            with pytest.raises(expected, match=f"it answers {greeting[:3].decode()}"), smtp_session(ours, name):
                pass
            thread.join()


def test_private_addresses_are_refused(installation: Installation) -> None:
    add_connection(installation, "mail", url="smtp://127.0.0.1:25", security="plain")
    with pytest.raises(AddressRefusedError), smtp_session(installation, "mail"):
        pass
