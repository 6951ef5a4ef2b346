"""One installation of Beatline as a process sees it: its settings, and connections that are opened when first used."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from beatline.names import Keys
from beatline.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from beatline.secrets import Keyring

RedisClient: TypeAlias = Any
"""redis.Redis: its annotations mix the sync and the async client, so strict checking of it says nothing."""

SOCKET_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 3.0


class Installation:
    """Settings, Redis, PostgreSQL and keys of one installation.

    Making one connects to nothing. Its connections are safe to use from several threads; a forked child opens its own.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def load(cls) -> Installation:
        """The installation that the environment names. Raises SettingsError or NotRunningError."""
        return cls(Settings.load())

    @property
    def keys(self) -> Keys:
        """The names of this installation's Redis keys."""
        return self.settings.keys

    @cached_property
    def redis(self) -> RedisClient:
        """A client with bounded time-outs that answers in text."""
        return connect_redis(self.settings.redis_url)

    @property
    def engine(self) -> Engine:
        """This process's SQLAlchemy engine for the installation's database."""
        from beatline.ledger.database import open_engine

        return open_engine(self.settings)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys that seal messages and secrets. Raises SecretError if there are none."""
        from beatline.secrets import Keyring

        return Keyring.load(self.settings)


def connect_redis(url: str, **options: Any) -> RedisClient:
    """A client for one Redis URL that answers in text, connects when first used, and waits for nothing for ever.

    It keeps to the deadline of who is in a hurry (`engine.hurry`).
    """
    from redis import Redis

    from beatline.engine.hurry import hurrying

    factory: Any = Redis
    client = factory.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=15,
        **options,
    )
    pool = client.connection_pool
    pool.connection_class = hurrying(pool.connection_class)
    return client
