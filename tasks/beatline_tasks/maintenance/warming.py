"""Puts the answers of queries and addresses into Redis, where an application finds them: `cache:<key>`, with a TTL.

A query's value is a JSON list of its rows, an address's value the body as it came. What fails keeps the value of
before, until that expires.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from beatline.clock import monotonic_s
from beatline.connections.sql import sql_session
from beatline.definitions.specs import explain
from beatline.errors import BeatlineError, NameRefusedError, ServiceError, TransientError
from beatline.ledger.database import sqlstate
from beatline.names import check_name
from beatline.selects import one_select
from beatline_tasks.maintenance.errors import MaintenanceError

if TYPE_CHECKING:
    from beatline.installation import Installation

_LONGEST_S: Final = 200.0
_ENTRY_S: Final = 30.0
_ROWS_AT_ONCE: Final = 500
_CANCELED: Final = "57014"
_OK: Final = 200
Ttl = Annotated[int, Field(ge=1, le=7 * 86_400)]


def _key(name: str) -> str:
    try:
        return check_name("cache", name)
    except NameRefusedError as exc:
        raise ValueError(exc.rule) from None


class Entry(BaseModel):
    """What is warmed: a query over a connection, or an address."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    key: Annotated[str, AfterValidator(_key)]
    connection: str | None = None
    query: Annotated[str, AfterValidator(one_select)] | None = Field(default=None, min_length=1, max_length=50_000)
    url: str | None = None
    ttl_s: Ttl | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.url is None) == (self.query is None):
            raise ValueError("query or url: an entry has one of them")
        if (self.connection is None) != (self.query is None):
            raise ValueError("connection and query: go together")
        if self.url is not None:
            self._check_url(self.url)
        return self

    @staticmethod
    def _check_url(url: str) -> None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("url: must be an address such as https://example.com/rates")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url: must not carry a password, a schedule's arguments are shown")


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    entries: Annotated[list[Entry], Field(min_length=1, max_length=100)]
    ttl_s: Ttl
    max_bytes: Annotated[int, Field(ge=1, le=16 * 2**20)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        keys = [entry.key for entry in self.entries]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"entries: the key {', '.join(twice)} stands in two of them")
        return self


@dataclass(slots=True)
class Warmed:
    """What was put into the cache, and what was not, with the reason."""

    warmed: int = 0
    size_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])


def warm(installation: Installation, raw: Mapping[str, Any], *, longest_s: float = _LONGEST_S) -> Warmed:
    """Warm every entry that can be.

    Raises MaintenanceError if the request is wrong or every entry failed, TransientError if all of that may pass,
    ServiceError if Redis does not take them.
    """
    try:
        request = _Request.model_validate(dict(raw))
    except ValidationError as exc:
        raise MaintenanceError(f"maintenance.warm_cache: {explain(exc, raw)}.") from None
    ends_s, warmed, lasting = monotonic_s() + longest_s, Warmed(), False
    for entry in request.entries:
        limit_s = min(_ENTRY_S, ends_s - monotonic_s())
        try:
            if limit_s <= 0:
                raise MaintenanceError("the time for one run was over before its turn")
            value = _value(installation, entry, request.max_bytes, limit_s)
        except (BeatlineError, DBAPIError) as exc:
            warmed.failed[entry.key] = _reason(exc, limit_s)
            lasting = lasting or not isinstance(exc, TransientError)
            continue
        _put(installation, entry.key, value, entry.ttl_s or request.ttl_s)
        warmed.warmed += 1
        warmed.size_bytes += len(value)
    if not warmed.warmed:
        said = "; ".join(f"{key}: {why}" for key, why in warmed.failed.items()) + "."
        raise MaintenanceError(said) if lasting else TransientError(said)
    return warmed


def _put(installation: Installation, key: str, value: bytes, ttl_s: int) -> None:
    from redis import RedisError

    try:
        installation.redis.set(installation.keys.cache(key), value, ex=ttl_s)
    except RedisError as exc:
        raise ServiceError(f"Redis does not take the cache: {exc}.") from exc


def _value(installation: Installation, entry: Entry, max_bytes: int, limit_s: float) -> bytes:
    if entry.url is not None:
        return _fetched(entry.url, max_bytes, limit_s, allow_private=installation.settings.allow_private_addresses)
    return _queried(installation, entry.connection or "", entry.query or "", max_bytes, limit_s)


def _queried(installation: Installation, connection: str, query: str, max_bytes: int, limit_s: float) -> bytes:
    """The rows as a JSON list of objects; PostgreSQL writes the JSON. All of it takes `limit_s` at most."""
    statement = f"SELECT row_to_json(q)::text FROM (\n{query}\n) AS q"  # noqa: S608  # its author's, one SELECT
    parts, size, ends_s = list[str](), 2, monotonic_s() + limit_s
    options: dict[str, Any] = {"no_parameters": True, "stream_results": True, "max_row_buffer": _ROWS_AT_ONCE}
    with sql_session(installation, connection, statement_timeout_s=limit_s) as conn:
        _let_it_take(conn, ends_s, limit_s)
        # The options are the statement's: `_let_it_take` must not run through a cursor of the server.
        rows = conn.exec_driver_sql(statement, execution_options=options)
        while found := rows.fetchmany(_ROWS_AT_ONCE):
            for row in found:
                size += len(row[0].encode()) + 1
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(row[0])
            _let_it_take(conn, ends_s, limit_s)
    return f"[{','.join(parts)}]".encode()


def _let_it_take(conn: Connection, ends_s: float, limit_s: float) -> None:
    """Bound the next statement by what is left: the server counts each FETCH of a cursor as a statement of its own."""
    left_s = ends_s - monotonic_s()
    if left_s <= 0:
        raise MaintenanceError(f"the query took longer than {limit_s:.3g} s")
    conn.exec_driver_sql(f"SET LOCAL statement_timeout = {math.ceil(left_s * 1000)}")


def _fetched(url: str, max_bytes: int, limit_s: float, *, allow_private: bool) -> bytes:
    import httpx

    from beatline.outbound.transport import Deadline, GuardedTransport

    deadline = Deadline()
    deadline.set(monotonic_s() + limit_s)
    transport = GuardedTransport(deadline, allow_private=allow_private)
    headers = {"accept-encoding": "identity", "user-agent": "beatline"}  # packed, it could unpack to any size
    try:
        with (
            httpx.Client(transport=transport, follow_redirects=True, max_redirects=5, headers=headers) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != _OK or response.headers.get("content-encoding", "identity") != "identity":
                raise MaintenanceError(f"the address answered {response.status_code}, or packed what it sent")
            body = b""
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
            return body
    except httpx.HTTPError as exc:
        raise MaintenanceError(f"the address cannot be read: {str(exc) or type(exc).__name__}") from exc


def _too_large(max_bytes: int) -> MaintenanceError:
    return MaintenanceError(f"it has more than {max_bytes:,} bytes (max_bytes)")


def _reason(exc: Exception, limit_s: float) -> str:
    if not isinstance(exc, DBAPIError):
        return str(exc).rstrip(".")
    if sqlstate(exc) == _CANCELED:
        return f"the query took longer than {limit_s:.3g} s"
    said = getattr(getattr(exc.orig, "diag", None), "message_primary", None)
    return f"query: {said or 'the connection was lost'}"
