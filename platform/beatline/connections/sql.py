"""Sessions in a user's own database: bounded in time, read only unless asked otherwise, to the address that was checked.

A session is a connection of its own, closed at its end: nothing stays open in a foreign database between runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg2
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from beatline.connections.errors import ConnectionFaultError
from beatline.connections.open import OpenConnection, get_of_type
from beatline.errors import AddressRefusedError, TransientError
from beatline.outbound.guard import resolve

if TYPE_CHECKING:
    from beatline.installation import Installation

_CONNECT_TIMEOUT_S: Final = 5
_LOCK_TIMEOUT_S: Final = 30
_MENDED_BY: Final = {
    "password authentication failed": "the password is wrong, or the user {user!r} is",
    "no password supplied": "a password is required: set user and password",
    "does not support SSL": "it does not speak TLS, and sslmode asks for it",
    "certificate": "its certificate is not trusted; sslrootcert names the file of the authority that signed it",
    "no pg_hba.conf entry": "it admits no such user, database and address together (pg_hba.conf)",
    "is not permitted to log in": "the user {user!r} is not permitted to log in",
}
_MAY_PASS: Final = {
    "Connection refused": "it refuses the connection: no server listens there",
    "timeout expired": "it does not answer within 5 s",
    "timed out": "it does not answer in time",
    "No route to host": "there is no way to it",
    "Network is unreachable": "there is no way to it",
    "too many connections": "it has too many connections",
    "too many clients": "it has too many connections",
    "remaining connection slots": "it has too many connections",
    "the database system is": "it is starting, or stopping",
    "server closed the connection": "it closed the connection",
}


@contextmanager
def sql_session(
    installation: Installation,
    name_or_id: str,
    *,
    read_only: bool = True,
    statement_timeout_s: float | None = None,
) -> Generator[Connection]:
    """A session in the database of a named connection; a transaction begins with the first statement.

    Nothing is committed at the end by itself. Raises ConnectionFaultError for what a person must mend, also if
    `read_only=False` is asked of a read-only connection; TransientError for what may pass; AddressRefusedError.
    """
    found = get_of_type(installation, name_or_id, "sql")
    if found.spec.read_only and not read_only:
        raise ConnectionFaultError(
            f"{found.definition.called} is read only: set its field read_only to false if it may be written to."
        )
    with open_session(
        found,
        allow_private=installation.settings.allow_private_addresses,
        read_only=read_only,
        statement_timeout_s=statement_timeout_s,
    ) as conn:
        yield conn


@contextmanager
def open_session(
    found: OpenConnection, *, allow_private: bool, read_only: bool = True, statement_timeout_s: float | None = None
) -> Generator[Connection]:
    """As `sql_session`, of a connection that was read already."""
    limit_s = found.spec.statement_timeout_s if statement_timeout_s is None else statement_timeout_s

    def connect() -> Any:
        return _connect(found, allow_private=allow_private, read_only=read_only, statement_timeout_s=limit_s)

    engine = create_engine("postgresql+psycopg2://", creator=connect, poolclass=NullPool, hide_parameters=True)
    with engine.connect() as conn:
        yield conn


def _connect(found: OpenConnection, *, allow_private: bool, read_only: bool, statement_timeout_s: float) -> Any:
    spec = found.spec
    try:
        addresses = resolve(spec.host, spec.port, allow_private=allow_private)
        connection = psycopg2.connect(**_parameters(found, addresses))
    except psycopg2.OperationalError as exc:
        raise _in_words(found, str(exc)) from None  # libpq's own text names every address it tried
    except TransientError as exc:
        raise TransientError(f"{found.definition.called}: {exc}") from exc
    except AddressRefusedError:
        raise
    try:
        with connection.cursor() as cursor:
            # SET, not the start-up option: connection poolers refuse options they do not track.
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false), "
                "set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO', false), "
                "set_config('standard_conforming_strings', 'on', false), "
                # A statement that got past all checks and ended the transaction would begin one that reads, too.
                "set_config('default_transaction_read_only', COALESCE(%s, current_setting('default_transaction_read_only')), false)",
                (f"{math.ceil(statement_timeout_s * 1000)}ms", f"{_LOCK_TIMEOUT_S}s", "on" if read_only else None),
            )
        connection.commit()
        connection.set_session(readonly=read_only)
    except psycopg2.Error as exc:
        connection.close()
        raise _in_words(found, str(exc)) from None
    return connection


def _parameters(found: OpenConnection, addresses: list[str]) -> dict[str, Any]:
    spec = found.spec
    password = None if spec.password is None else spec.password.get_secret_value()
    return {
        "application_name": f"beatline/{found.definition.name}"[:63],
        **spec.query,
        # One host for each address: TLS asks for the name, the socket goes to what was checked.
        "host": ",".join([spec.host] * len(addresses)),
        "hostaddr": ",".join(addresses),
        "port": spec.port,
        "dbname": spec.database,
        "user": spec.login or "",
        "password": password or "",
        # Neither the worker's own password file nor its Kerberos ticket is meant.
        "passfile": os.devnull,
        "gssencmode": "disable",
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "client_encoding": "utf8",
    }


def _in_words(found: OpenConnection, said: str) -> Exception:
    spec, called = found.spec, found.definition.called
    for mark, words in _MAY_PASS.items():
        if mark in said:
            return TransientError(f"{called}: {spec.place}: {words}.")
    for mark, words in _MENDED_BY.items():
        if mark in said:
            return ConnectionFaultError(f"{called}: {spec.place}: {words.format(user=spec.login or '')}.")
    if f'database "{spec.database}" does not exist' in said:
        return ConnectionFaultError(f"{called}: {spec.place}: there is no such database on this server.")
    last = (said.strip().splitlines() or ["it refuses the connection"])[-1]
    return ConnectionFaultError(f"{called}: {spec.place}: {last.strip().rstrip('.')}.")
