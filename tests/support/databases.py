"""One migrated template database a session; a copy of it for each test."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql


def with_database(url: str, database: str) -> str:
    """The same server's URL for another database."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def _plain(url: str) -> str:
    """The URL as libpq reads it, without SQLAlchemy's driver name."""
    parts = urlsplit(url)
    return parts._replace(scheme=parts.scheme.partition("+")[0]).geturl()


def _execute(url: str, statement: sql.Composable) -> None:
    connection = psycopg2.connect(_plain(url))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@contextmanager
def database(url: str, *, template: str | None = None) -> Generator[str]:
    """The URL of a new database, dropped at the end whoever is still connected."""
    name = f"beatline_test_{secrets.token_hex(6)}"
    # Copied as files: by way of the WAL, as is usual, it takes the server three times as long.
    copied = sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template)) if template else sql.SQL("")
    _execute(url, sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), copied))
    try:
        yield with_database(url, name)
    finally:
        _execute(url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def name_of(url: str) -> str:
    """The database that a URL names."""
    return urlsplit(url).path.lstrip("/")
