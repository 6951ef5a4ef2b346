"""What the tests of email share: mailboxes in this test's own installation, polls, and what they stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from support.apps import open_app
from support.serving import MakeSettings

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation
    from beatline.settings import Settings
    from support.dovecot import ImapServer

AddMailbox = Callable[..., "Definition"]
Poll = Callable[[str], Any]
Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def mail_settings(make_settings: MakeSettings, dovecot: ImapServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """This test's settings: servers on loopback are allowed, and their certificate is trusted."""
    from beatline_tasks.email.wire import tls_context

    monkeypatch.setenv("SSL_CERT_FILE", str(dovecot.certificate.file))
    tls_context.cache_clear()
    return make_settings(allow_private_addresses=True)


@pytest.fixture
def installed(mail_settings: Settings) -> Iterator[Installation]:
    """This test's installation."""
    from beatline.installation import Installation

    installation = Installation(mail_settings)
    yield installation
    installation.redis.close()


@pytest.fixture
def app(mail_settings: Settings) -> Iterator[Any]:
    """A Celery app of this installation."""
    with open_app(mail_settings) as app:
        yield app


@pytest.fixture
def add_mailbox(installed: Installation, dovecot: ImapServer) -> AddMailbox:
    """Defines a mailbox on Dovecot as `beatline mailboxes add` does; its user has the mailbox's name."""
    from beatline.definitions import specs, store
    from beatline.families import kinds

    def add(name: str, **spec: Any) -> Definition:
        full = {"host": dovecot.host, "port": dovecot.port, "security": "plain", "user": name, **spec}
        if "oauth" not in full:
            full.setdefault("password", dovecot.password)
        checked = specs.check(kinds()["mailbox"], name, full)
        with installed.engine.begin() as conn:
            return store.add(conn, "mailbox", name, checked, lambda: installed.keyring, who="test")

    return add


@pytest.fixture
def poll(installed: Installation, app: Any) -> Poll:
    """Polls a mailbox in this process, as the task does."""
    from beatline_tasks.email import polling

    return lambda name: polling.poll(installed, app, name)


@pytest.fixture
def rows(installed: Installation) -> Rows:
    """The rows of a table of the family, by UID where it has one."""
    from beatline.ledger.database import sql

    def read(table: str = "email_messages", order: str = "uid") -> list[dict[str, Any]]:
        with installed.engine.connect() as conn:
            query = sql(conn, f"SELECT * FROM {{schema}}.{table} ORDER BY {order}")  # noqa: S608  # names of the test's
            return [dict(row) for row in conn.execute(query).mappings()]

    return read
