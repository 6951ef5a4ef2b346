"""Tokens of the admin API: random, shown once, kept as a hash, expiring."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Engine,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    delete,
    insert,
    or_,
    select,
    update,
)

from beatline.clock import utc_now
from beatline.errors import ConflictError, DefinitionError, NotFoundError
from beatline.ledger.model import audit, metadata
from beatline.names import check_name
from beatline.schedules.zones import read_duration_s

LIFE: Final = timedelta(days=90)
LONGEST: Final = timedelta(days=3650)
_MARK: Final = "beatline"
"""Begins every token, so that scanners of repositories and logs can know one."""
_PREFIX_BYTES: Final = 4
_SECRET_BYTES: Final = 32
_TOKEN_CHARS: Final = 80
_USED_EVERY: Final = timedelta(minutes=1)
_NOBODY: Final = bytes(32)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False, comment="the part of the token that finds its row"),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256 of the whole token"),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("last_used_at", DateTime(timezone=True), comment="to the minute"),
    UniqueConstraint("name", name="tokens_name"),
    UniqueConstraint("prefix", name="tokens_prefix"),
    CheckConstraint("octet_length(hash) = 32", name="tokens_hash"),
    comment="Who may use the admin API; the tokens themselves are kept nowhere.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as people may see it: not the token itself, which nobody keeps."""

    id: UUID
    name: str
    prefix: str
    created_at: datetime
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None

    @property
    def expired(self) -> bool:
        """Whether it is refused by now."""
        return self.expires_at <= utc_now()


_COLUMNS: Final = tuple(tokens.c[field.name] for field in fields(Token))


def add(conn: Connection, name: str, *, who: str, life: timedelta = LIFE) -> tuple[Token, str]:
    """A new token, and its text, which exists nowhere else from now on.

    Raises ConflictError if the name is taken, NameRefusedError or DefinitionError if name or life make no sense.
    """
    check_name("token", name)
    if not timedelta(0) < life <= LONGEST:
        raise DefinitionError(
            f"--expires: a token lives up to {LONGEST.days} days, and not {life.total_seconds():g} s."
        )
    taken = select(tokens.c.id).where(tokens.c.name == name)
    if conn.execute(taken).scalar() is not None:
        raise ConflictError(f"There is a token {name!r} already: choose another name, or remove it first.")
    prefix, now = secrets.token_hex(_PREFIX_BYTES), utc_now()
    text = f"{_MARK}_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    made = Token(
        id=uuid4(), name=name, prefix=prefix, created_at=now, created_by=who, expires_at=now + life, last_used_at=None
    )
    values = {column.name: getattr(made, column.name) for column in _COLUMNS}
    conn.execute(insert(tokens).values(**values, hash=_hash(text)))
    _audit(conn, "add", made, who)
    return made, text


def list_tokens(conn: Connection) -> list[Token]:
    """Every token, by name, expired ones included."""
    return [Token(**row) for row in conn.execute(select(*_COLUMNS).order_by(tokens.c.name)).mappings()]


def remove(conn: Connection, name_or_prefix: str, *, who: str) -> Token:
    """It is refused from now on. Raises NotFoundError with the names that come close."""
    wanted = or_(tokens.c.name == name_or_prefix, tokens.c.prefix == name_or_prefix)
    row = conn.execute(delete(tokens).where(wanted).returning(*_COLUMNS)).mappings().first()
    if row is None:
        names = conn.execute(select(tokens.c.name)).scalars().all()
        close = get_close_matches(name_or_prefix, names, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`beatline tokens list` shows all."
        raise NotFoundError("token", name_or_prefix, hint)
    gone = Token(**row)
    _audit(conn, "remove", gone, who)
    return gone


def verify(engine: Engine, text: str) -> Token | None:
    """Whose token this is, expired or not; None if nobody's. Notes its use, at most once a minute."""
    mark, _, rest = text.partition("_")
    prefix = rest.partition("_")[0]
    if mark != _MARK or len(text) > _TOKEN_CHARS or not text.isascii() or not prefix.isalnum():
        return None
    with engine.connect() as conn:
        row = conn.execute(select(*_COLUMNS, tokens.c.hash).where(tokens.c.prefix == prefix)).mappings().first()
    values: dict[str, Any] = {} if row is None else dict(row)
    kept = bytes(values.pop("hash", _NOBODY))
    if not hmac.compare_digest(kept, _hash(text)):
        return None
    token = Token(**values)
    if not token.expired:
        _note_use(engine, token)
    return token


def read_life(text: str) -> timedelta:
    """How long a token lives, out of `90d`. Raises DefinitionError."""
    try:
        return timedelta(seconds=read_duration_s(text))
    except (ValueError, OverflowError):
        raise DefinitionError(f"--expires {text[:40]!r} is no duration: write 12h, 30d or 1w.") from None


def _note_use(engine: Engine, token: Token) -> None:
    now = utc_now()
    if token.last_used_at is not None and now - token.last_used_at < _USED_EVERY:
        return
    unused = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= now - _USED_EVERY)
    with engine.begin() as conn:
        conn.execute(update(tokens).where(tokens.c.id == token.id, unused).values(last_used_at=now))


def _hash(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _audit(conn: Connection, action: str, token: Token, who: str) -> None:
    told = {"prefix": token.prefix, "expires_at": token.expires_at.isoformat()}
    before, after = (None, told) if action == "add" else (told, None)
    values = {"at": utc_now(), "who": who, "action": action, "kind": "token", "name": token.name}
    conn.execute(insert(audit).values(**values, before=before, after=after))
