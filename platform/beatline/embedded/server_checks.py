"""Whether a server that is given can carry Beatline: version, eviction, persistence, rights; and what to set if not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import psycopg2

from beatline.embedded.binaries import POSTGRES_AT_LEAST, REDIS_AT_LEAST
from beatline.errors import ServiceError
from beatline.secrets import mask_urls
from beatline.settings import Settings

CONNECT_S: Final = 5
REDIS_VARIABLE: Final = "BEATLINE_REDIS_URL"
DATABASE_VARIABLE: Final = "BEATLINE_DATABASE_URL"

_SCHEMA_RIGHTS: Final = """
SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE'),
       (SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
          FROM pg_namespace WHERE nspname = %s)
"""


@dataclass(frozen=True, slots=True)
class ServerFinding:
    """One thing about a server: an error keeps Beatline from starting, a warning does not. Holds no password."""

    level: Literal["error", "warning"]
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


def check_servers(settings: Settings, *, redis: bool = True, database: bool = True) -> list[ServerFinding]:
    """What is wrong with the servers that the settings name; empty if all is well."""
    found: list[ServerFinding] = []
    if redis:
        found += _check_redis(settings)
    if database:
        found += _check_database(settings)
    return found


def require_servers(settings: Settings, *, redis: bool = True, database: bool = True) -> list[ServerFinding]:
    """The warnings. Raises ServiceError with every error, one a line."""
    findings = check_servers(settings, redis=redis, database=database)
    errors = [str(finding) for finding in findings if finding.level == "error"]
    if errors:
        raise ServiceError("\n".join(errors))
    return findings


def _check_redis(settings: Settings) -> Iterator[ServerFinding]:
    from redis.exceptions import RedisError

    from beatline.installation import connect_redis

    subject = f"Redis at {place(settings.redis_url, 6379)}"
    try:
        with closing(connect_redis(settings.redis_url)) as client:
            info: Mapping[str, Any] = client.info()
            yield from _judge_redis(subject, info)
            if not info.get("cluster_enabled"):
                yield from _persistence(subject, client, info)
                yield from _redis_rights(subject, client, f"{settings.key_prefix}rights")
    except (RedisError, OSError) as exc:
        yield ServerFinding(
            "error", subject, f"cannot be used ({mask_urls(str(exc))}): start it, or correct {REDIS_VARIABLE}."
        )


def _judge_redis(subject: str, info: Mapping[str, Any]) -> Iterator[ServerFinding]:
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < REDIS_AT_LEAST:
        yield ServerFinding("error", subject, f"is version {version}, and 6.2 or newer is needed: upgrade it.")
    if info.get("cluster_enabled"):
        yield ServerFinding(
            "error",
            subject,
            f"runs as a cluster, which Celery's broker cannot use: set {REDIS_VARIABLE} to a single server.",
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        yield ServerFinding(
            "error", subject, f"may evict queues (maxmemory-policy {policy}): set maxmemory-policy noeviction."
        )
    elif policy != "noeviction":
        yield ServerFinding(
            "warning",
            subject,
            f"may evict the marks that keep a run from running twice (maxmemory-policy {policy}): "
            "set maxmemory-policy noeviction.",
        )


def _persistence(subject: str, client: Any, info: Mapping[str, Any]) -> Iterator[ServerFinding]:
    from redis.exceptions import ResponseError

    if info.get("aof_enabled"):
        return
    try:
        saves = str(client.config_get("save").get("save", ""))
    except ResponseError:  # managed servers commonly forbid CONFIG
        yield ServerFinding(
            "warning",
            subject,
            "keeps no append-only file, and does not let its snapshots be asked for: see that it persists "
            "(appendonly yes), or what it held since the last drain, at most a second, is lost when it restarts.",
        )
        return
    if not saves:
        yield ServerFinding(
            "warning",
            subject,
            "forgets everything when it restarts: set appendonly yes. (Accepted runs come back from PostgreSQL.)",
        )


def _redis_rights(subject: str, client: Any, key: str) -> Iterator[ServerFinding]:
    from redis.exceptions import ResponseError

    try:
        client.eval("return redis.call('SET', KEYS[1], '1', 'PX', '1000')", 1, key)
    except ResponseError as exc:  # NOPERM, READONLY, MISCONF, OOM: each says what it is
        yield ServerFinding(
            "error",
            subject,
            f"refuses a script that writes {key!r} ({exc}): give its user +@all on ~{key.removesuffix('rights')}*, "
            f"or set {REDIS_VARIABLE} to a server that accepts writes.",
        )


def _check_database(settings: Settings) -> Iterator[ServerFinding]:
    url = settings.database_url.replace("postgresql+psycopg2://", "postgresql://", 1)
    subject = f"PostgreSQL at {place(url, 5432)}"
    try:
        with closing(psycopg2.connect(url, connect_timeout=CONNECT_S)) as connection, connection.cursor() as cursor:
            yield from _judge_database(subject, connection.server_version, cursor)
            for schema in (settings.database_schema, settings.data_schema):
                yield from _schema_rights(subject, cursor, schema)
    except psycopg2.Error as exc:
        said = mask_urls(str(exc).strip().split("\n", 1)[0])
        yield ServerFinding("error", subject, f"cannot be used ({said}): start it, or correct {DATABASE_VARIABLE}.")


def _judge_database(subject: str, version: int, cursor: psycopg2.extensions.cursor) -> Iterator[ServerFinding]:
    if version // 10_000 < POSTGRES_AT_LEAST[0]:
        yield ServerFinding(
            "error",
            subject,
            f"is version {version // 10_000}, and {POSTGRES_AT_LEAST[0]} or newer is needed: upgrade it.",
        )
    cursor.execute("SELECT current_setting('server_encoding'), current_setting('transaction_read_only')")
    encoding, read_only = _row(cursor)
    if encoding != "UTF8":
        yield ServerFinding(
            "error",
            subject,
            f"is encoded in {encoding}, which cannot hold every text: create a database with ENCODING 'UTF8' and set "
            f"{DATABASE_VARIABLE} to it.",
        )
    if read_only == "on":
        yield ServerFinding(
            "error", subject, f"accepts no writes (a standby?): set {DATABASE_VARIABLE} to the primary server."
        )


def _schema_rights(subject: str, cursor: psycopg2.extensions.cursor, schema: str) -> Iterator[ServerFinding]:
    cursor.execute(_SCHEMA_RIGHTS, (schema,))
    user, database, may_create_schema, may_use_schema = _row(cursor)
    if may_use_schema is None and not may_create_schema:
        yield ServerFinding(
            "error",
            subject,
            f'its user {user} may not create the schema {schema!r}: GRANT CREATE ON DATABASE "{database}" TO "{user}".',
        )
    elif may_use_schema is False:
        yield ServerFinding(
            "error",
            subject,
            f"its user {user} may not create tables in the schema {schema!r}: "
            f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{user}".',
        )


def _row(cursor: psycopg2.extensions.cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    if row is None:
        raise psycopg2.InterfaceError("the server answered without a row")
    return row


def place(url: str, port: int) -> str:
    """Host, port and database of a URL, without its user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or port}{parts.path}"
