"""Which of the two servers an error comes from, told from its class by name: importing them only to compare is slow."""

from __future__ import annotations

from typing import Final, NamedTuple


class Server(NamedTuple):
    """A server that Beatline needs, and the variable that names it."""

    name: str
    variable: str


REDIS: Final = Server("Redis", "BEATLINE_REDIS_URL")
POSTGRES: Final = Server("PostgreSQL", "BEATLINE_DATABASE_URL")

_ERRORS: Final = {
    ("sqlalchemy.exc", "OperationalError"): POSTGRES,
    ("sqlalchemy.exc", "InterfaceError"): POSTGRES,
    ("sqlalchemy.exc", "TimeoutError"): POSTGRES,  # no connection of the pool became free
    ("psycopg2", "OperationalError"): POSTGRES,
    ("redis.exceptions", "RedisError"): REDIS,
    ("kombu.exceptions", "OperationalError"): REDIS,
}


def server_of(exc: BaseException) -> Server | None:
    """The server that does not answer as it should; None for any other error."""
    for cls in type(exc).__mro__:
        found = _ERRORS.get((cls.__module__, cls.__name__))
        if found is not None:
            return found
    return None
