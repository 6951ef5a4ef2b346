"""Fixtures: real servers, and an installation of its own for each test.

What they build is imported when a test asks for it, so that pure tests start without SQLAlchemy.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

from beatline.errors import ServiceError
from beatline.names import Keys
from support import databases, environment, keys, servers

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings

_FOREIGN_QUEUES: Final = pytest.StashKey[tuple[str, ...]]()


class MakeSettings(Protocol):
    """Settings on this test's database and key prefix; any field can be given otherwise."""

    def __call__(self, **overrides: Any) -> Settings: ...


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis that all tests share, each under its own prefix."""
    given = os.environ.get(environment.REDIS_URL)
    if given:
        yield given
        return
    for server in _served(servers.redis_server(tmp_path_factory.mktemp("redis")), "Redis"):
        yield server.url


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL that all tests share, each with its own database."""
    given = os.environ.get(environment.DATABASE_URL)
    if given:
        yield given
        return
    with servers.folder_in_memory(tmp_path_factory.mktemp("postgres")) as folder:
        for server in _served(servers.postgres_server(folder / "data"), "PostgreSQL"):
            yield server.url


def _served(server: servers.Server, what: str) -> Iterator[servers.Server]:
    try:
        server.start()
    except ServiceError as exc:
        server.kill()
        servers.unavailable(what, exc)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[servers.Server]:
    """A Redis that only this test uses: it may be stopped, killed and started again."""
    yield from _served(servers.redis_server(tmp_path / "own-redis"), "Redis")


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[servers.Server]:
    """A PostgreSQL that only this test uses: it may be stopped, killed and started again. It has no tables yet."""
    yield from _served(servers.postgres_server(tmp_path / "own-postgres"), "PostgreSQL")


@pytest.fixture(scope="session")
def database_template(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with every migration applied."""
    from beatline.ledger.database import open_engine, upgrade
    from beatline.settings import Settings

    home = tmp_path_factory.mktemp("template")
    with databases.database(postgres) as url:
        settings = Settings.load(redis_url="redis://127.0.0.1:1/0", database_url=url, home=home)
        upgrade(settings)
        open_engine(settings).dispose()
        yield databases.name_of(url)


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """The URL of a database without any table."""
    with databases.database(postgres) as url:
        yield url


@pytest.fixture
def database_url(postgres: str, database_template: str) -> Iterator[str]:
    """The URL of this test's own database, migrations applied."""
    with databases.database(postgres, template=database_template) as url:
        yield url


@pytest.fixture
def key_prefix(valkey: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """This test's prefix in Redis. The test fails if it leaves a key that lives for ever, or one outside the prefix."""
    prefix = f"{{t{secrets.token_hex(5)}}}:"
    shared = environment.REDIS_URL in os.environ
    if not shared:
        keys.remove(valkey, "")  # what a test without a prefix left: not this one's fault
    yield prefix
    foreign = request.node.stash.get(_FOREIGN_QUEUES, ())
    left = keys.leaked(valkey, Keys(prefix), foreign)
    keys.remove(valkey, prefix)
    stray = [] if shared else keys.strays(valkey, prefix)
    assert not left, f"keys without a time to live that beatline.names does not call permanent: {left}"
    assert not stray, f"keys outside the prefix {prefix}: {stray}"


@pytest.fixture
def make_settings(
    valkey: str, database_url: str, key_prefix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeSettings]:
    """A maker of Settings on this test's database and key prefix."""
    from beatline.ledger.database import open_engine
    from beatline.settings import Settings

    made: list[Settings] = []
    ours: dict[str, Any] = {
        "redis_url": valkey,
        "result_url": valkey,
        "database_url": database_url,
        "key_prefix": key_prefix,
        "home": tmp_path / "home",
        "secret_keys": f"test:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }

    def make(**overrides: Any) -> Settings:
        settings = Settings.load(**(ours | overrides))
        made.append(settings)
        known = request.node.stash.get(_FOREIGN_QUEUES, ())
        request.node.stash[_FOREIGN_QUEUES] = (*known, *settings.queues)
        return settings

    yield make
    for settings in made:
        open_engine(settings).dispose()


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """The settings of this test's own installation."""
    return make_settings()


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    """This test's own installation, connected to real servers."""
    from beatline.installation import Installation

    installation = Installation(settings)
    yield installation
    installation.redis.close()


@pytest.fixture
def app(settings: Settings) -> Iterator[Any]:
    """A Celery app of this test's installation, in the test's own process; its tasks are imported."""
    from support.apps import open_app

    with open_app(settings) as app:
        yield app
