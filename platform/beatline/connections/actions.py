"""What people ask of a connection: does it work? Connects for real."""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from beatline.connections import smtp, sql, stores
from beatline.connections.model import Connection
from beatline.connections.open import OpenConnection
from beatline.definitions import Definition, Finding, open_spec
from beatline.errors import BeatlineError, ServiceError
from beatline.outbound.objects import in_words

if TYPE_CHECKING:
    from beatline.installation import Installation

_RIGHTS: Final = """
    SELECT current_user AS who, r.rolsuper AS super, current_setting('transaction_read_only') AS read_only,
           has_database_privilege(current_database(), 'CREATE') AS may_create,
           (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
              AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) AS readable,
           (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
              AND has_schema_privilege(n.oid, 'USAGE')
              AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE')) AS writable
    FROM pg_roles r WHERE r.rolname = current_user
"""


def check(installation: Installation, definition: Definition) -> Finding:
    """Whether the connection works, in words: it is opened, used, and closed again."""
    allow_private = installation.settings.allow_private_addresses
    try:
        found = OpenConnection(definition, open_spec(installation, definition, Connection))
        match found.spec.type:
            case "sql":
                return _check_sql(found, allow_private)
            case "smtp":
                return _check_smtp(found, allow_private)
            case "store":
                return _check_store(found, allow_private)
    except ServiceError:
        raise
    except BeatlineError as exc:
        return Finding(ok=False, text=str(exc))


def _check_sql(found: OpenConnection, allow_private: bool) -> Finding:
    spec = found.spec
    try:
        with sql.open_session(found, allow_private=allow_private, read_only=spec.read_only) as conn:
            version = str(conn.execute(text("SHOW server_version")).scalar_one())
            tls = conn.execute(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")).scalar()
            rights = conn.execute(text(_RIGHTS)).mappings().one()
    except DBAPIError as exc:
        return Finding(ok=False, text=f"{found.definition.called}: {spec.place}: {exc.orig}".strip())
    details: dict[str, Any] = {
        "server": f"PostgreSQL {version.split()[0]}",
        "encrypted": bool(tls),
        "user": rights["who"],
        "read_only": rights["read_only"] == "on",
        "tables_it_may_read": rights["readable"],
        "tables_it_may_change": rights["writable"],
        "may_create_schemas": rights["may_create"],
    }
    said = f"It works: PostgreSQL {version.split()[0]} at {spec.place}, as {rights['who']}, {_rights(spec, rights)}."
    return Finding(ok=True, text=said, details=details)


def _rights(spec: Connection, rights: Any) -> str:
    readable, writable = rights["readable"], rights["writable"]
    said = f"who may read {readable} table{'' if readable == 1 else 's'}"
    if spec.read_only:
        if rights["super"] or writable:
            may = "is a superuser" if rights["super"] else f"may change {writable} of them"
            return f"{said}. Over this connection nothing is changed (read_only), though the user {may}"
        return f"{said} and change none; the connection is read only"
    return f"{said} and change {writable}" + ("; it is a superuser" if rights["super"] else "")


def _check_smtp(found: OpenConnection, allow_private: bool) -> Finding:
    spec = found.spec
    try:
        with smtp.open_session(found, allow_private=allow_private) as session:
            code, _ = session.noop()
            size = session.esmtp_features.get("size", "")
    except (smtplib.SMTPException, OSError) as exc:
        return Finding(ok=False, text=f"{found.definition.called}: {spec.place}: {exc}.")
    way = {"starttls": "encrypted (STARTTLS)", "tls": "encrypted (TLS)", "plain": "not encrypted"}[spec.encrypted]
    who = f"logged in as {spec.login}" if spec.login else "without login"
    if code != 250:
        return Finding(ok=False, text=f"{found.definition.called}: {spec.place}: it answers NOOP with {code}.")
    warning = " The password travels in the clear." if spec.login and spec.encrypted == "plain" else ""
    details = {"largest_message_bytes": int(size)} if size.isdecimal() and int(size) else {}
    return Finding(ok=True, text=f"It works: {spec.place}, {way}, {who}.{warning}", details=details)


def _check_store(found: OpenConnection, allow_private: bool) -> Finding:
    import obstore

    spec, name, content = found.spec, f"beatline-check-{uuid4().hex}", b"written by `beatline connections check`"
    store = stores.open_store(found, allow_private=allow_private)
    with in_words(f"{found.definition.called}: {spec.place}"):
        obstore.put(store, name, content)
        try:
            same = bytes(obstore.get(store, name).bytes()) == content
        finally:
            obstore.delete(store, name)
    if not same:
        return Finding(
            ok=False, text=f"{found.definition.called}: {spec.place}: it gives back other bytes than it got."
        )
    return Finding(ok=True, text=f"It works: a small file was written to {spec.place}, read back and removed.")
