"""What each setting accepts. A check returns the value or raises ValueError; none repeats a URL: it holds a password.

The checks of one setting against another see, in `info.data`, those that stand before it in the model and are valid.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr, ValidationInfo

from beatline import names
from beatline.errors import NameRefusedError
from beatline.queues.topology import TOPOLOGY

_REDIS: Final = ("redis", "rediss")
_POSTGRES: Final = ("postgres", "postgresql", "postgresql+psycopg2")
_QUOTE: Final = "special characters of a password must be percent-encoded (@ is %40, / is %2F, # is %23)"


def redis_url(url: str) -> str:
    """The URL of a Redis server, unchanged; empty where none is configured."""
    if not url:
        return url
    scheme = _scheme(url)
    if scheme not in _REDIS:
        raise ValueError(f"{scheme}:// is no Redis: Beatline's broker is Redis or Valkey, redis:// or rediss:// (TLS)")
    parts = _split(url)
    if not parts.hostname:
        raise ValueError(f"names no host; {_QUOTE}")
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.isdecimal()):
        raise ValueError(f"must end in the number of a database, such as /0; {_QUOTE}")
    return url


def result_url(url: str, info: ValidationInfo) -> str:
    """The URL of a Celery result backend; the broker's if none is given."""
    if not url:
        return str(info.data.get("redis_url", ""))
    return redis_url(url) if _scheme(url) in _REDIS else url


def database_url(url: str) -> str:
    """The URL of a PostgreSQL database, with the driver psycopg2 named; empty where none is configured."""
    if not url:
        return url
    scheme = _scheme(url)
    if scheme not in _POSTGRES:
        if scheme.startswith("postgresql+"):
            raise ValueError(f"names the driver {scheme.partition('+')[2]}, and Beatline uses psycopg2: leave it out")
        raise ValueError(f"{scheme}:// is no PostgreSQL: Beatline keeps its truth in PostgreSQL 14 or newer")
    parts = _split(url)
    if not parts.path.strip("/"):
        raise ValueError(f"names no database; {_QUOTE}")
    # SQLAlchemy 2.1 takes psycopg 3 for postgresql://, and knows no postgres:// at all.
    return f"postgresql+psycopg2://{url.partition('://')[2]}"


def artifacts_url(url: str) -> str:
    """The address of the artifact store, unchanged; empty for the data folder."""
    if not url:
        return url
    scheme = _scheme(url)
    if scheme not in ("s3", "file"):
        raise ValueError(f"{scheme}:// is no store of files: s3://bucket/prefix or file:///folder")
    parts = _split(url)
    if scheme == "file" and (parts.netloc or len(parts.path) < 2):
        raise ValueError("must name a folder from the root on, as in file:///srv/beatline")
    if scheme == "s3" and not parts.hostname:
        raise ValueError("names no bucket")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a key: set BEATLINE_ARTIFACTS_ACCESS_KEY_ID and its secret")
    return url.rstrip("/")


def endpoint(url: str | None) -> str | None:
    """The address of an S3-style store, unchanged."""
    if url and (_scheme(url) not in ("http", "https") or not _split(url).hostname):
        raise ValueError("must be an address such as https://minio.example.com:9000")
    return url or None


def key_pair(secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """The secret of a key, beside the key's id."""
    if (secret is None) != (info.data.get("artifacts_access_key_id") is None):
        raise ValueError("goes with BEATLINE_ARTIFACTS_ACCESS_KEY_ID: set both, or neither")
    return secret


def api_host(host: str, info: ValidationInfo) -> str:
    """An address on loopback, or any if the API may be reached from other machines."""
    if info.data.get("api_exposed") or is_loopback(host):
        return host
    raise ValueError(
        f"{host} can be reached from other machines, and the admin API speaks plain HTTP: nothing was started. If a "
        "proxy with TLS stands before it, or the network is a container's own, set BEATLINE_API_EXPOSED=true"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on this address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def data_schema(schema: str, info: ValidationInfo) -> str:
    """A schema other than the one of Beatline's own tables."""
    if schema == info.data.get("database_schema"):
        raise ValueError("must be another schema than that of BEATLINE_DATABASE_SCHEMA")
    return schema


def key_prefix(prefix: str) -> str:
    """A prefix with one hash tag, so that a script may touch several keys on any Redis."""
    before, opening, rest = prefix.partition("{")
    tag, closing, after = rest.partition("}")
    if not (opening and closing and tag) or any(c.isspace() or c in "{}" for c in before + tag + after):
        raise ValueError("must hold one hash tag, {name}, and no white space")
    return prefix


def absolute(path: Path) -> Path:
    """The same path whatever a process later makes its working directory."""
    return path.expanduser().absolute()


def env(name: str | None) -> str | None:
    """The name of an environment, which becomes part of a file's name."""
    if name is not None and not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError("must be letters, digits, dash and underscore")
    return name


def upper(value: object) -> object:
    """A level as the logging module spells it."""
    return value.upper() if isinstance(value, str) else value


def listed(value: object) -> object:
    """`a, b` as a list; a list, or one in JSON, stays what it is."""
    if not isinstance(value, str):
        return value
    return [part for part in (part.strip(" \t\"'[]") for part in value.split(",")) if part]


def queues(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names of queues, each once."""
    try:
        return tuple(dict.fromkeys(names.check_queue(queue) for queue in given))
    except NameRefusedError as exc:
        raise ValueError(str(exc).rstrip(".")) from None


def modules(given: tuple[str, ...]) -> tuple[str, ...]:
    """Dotted names of modules."""
    for module in given:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"{module!r} is not the dotted name of a module")
    return given


def cleanup_tables(given: tuple[str, ...]) -> tuple[str, ...]:
    """Tables, each as `connection:schema.table`."""
    for entry in given:
        connection, _, table = entry.partition(":")
        schema, _, name = table.partition(".")
        if not (connection and schema and name) or "." in name:
            raise ValueError(f"{entry!r} is no table: write connection:schema.table")
    return given


def lease_s(seconds: float) -> float:
    """No longer than any queue lets a run take: what a dead worker held would wait longer than it may take."""
    shortest = min(TOPOLOGY, key=lambda queue: queue.hard_limit_s)
    if seconds > shortest.hard_limit_s:
        raise ValueError(
            f"must be at most {shortest.hard_limit_s}, the hard time limit of the queue {shortest.name}: a run whose worker "
            "died waits for its lease to end"
        )
    return seconds


def lease_renew_s(renew_s: float, info: ValidationInfo) -> float:
    """At most a third of the lease: two renewals in a row may fail before a run is given to another worker."""
    lease_s = info.data.get("lease_s")
    if lease_s is not None and renew_s * 3 > lease_s:
        raise ValueError(f"must be at most a third of BEATLINE_LEASE_S, which is {lease_s:g}")
    return renew_s


def beat_lock_s(lock_s: float, info: ValidationInfo) -> float:
    """Long enough that a Beat which works loses its lock only when it hangs."""
    interval_s = info.data.get("beat_interval_s")
    if interval_s is not None and lock_s < 5 * interval_s:
        raise ValueError(f"must be at least 5 times BEATLINE_BEAT_INTERVAL_S, which is {interval_s:g}")
    return lock_s


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme.replace("+", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError("is not a URL")
    return scheme.lower()


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"has no valid host and port; {_QUOTE}") from None
    if any(c.isspace() for c in url):
        raise ValueError("holds white space")
    return parts
