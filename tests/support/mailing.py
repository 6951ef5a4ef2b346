"""Fixtures: real mail servers. Dovecot's tests skip where there is none, and fail in CI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from beatline.errors import ServiceError
from support import servers

if TYPE_CHECKING:
    from beatline_tasks.demo.inbox import Pymap
    from support.dovecot import ImapServer
    from support.smtp import SmtpServer

PYMAP_USERS = tuple(f"user{number:02}" for number in range(1, 21))


def _imap(folder: Path) -> Iterator[ImapServer]:
    from support.dovecot import imap_server

    context = imap_server(folder)
    try:
        server = context.__enter__()
    except ServiceError as exc:
        servers.unavailable("Dovecot", exc)
    try:
        yield server
    finally:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImapServer]:
    """The Dovecot that all tests share; each takes users of its own."""
    yield from _imap(tmp_path_factory.mktemp("dovecot"))


@pytest.fixture
def own_dovecot(tmp_path: Path) -> Iterator[ImapServer]:
    """A Dovecot that only this test uses: it may be stopped and started again."""
    folder = tmp_path / "dovecot"
    folder.mkdir()
    yield from _imap(folder)


@pytest.fixture
def pymap() -> Iterator[Pymap]:
    """An IMAP server of another make, for this test alone, with the users PYMAP_USERS and the password `secret`."""
    from beatline_tasks.demo.inbox import Pymap

    server = Pymap(PYMAP_USERS, password="secret")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def smtp(tmp_path: Path) -> Iterator[SmtpServer]:
    """A plain SMTP server that takes everything from everybody, until the test says otherwise."""
    from support.smtp import smtp_server

    with smtp_server(tmp_path) as server:
        yield server
