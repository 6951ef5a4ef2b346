"""How each mailbox fares: its row in `email_accounts`, written by polls and by `check`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import Connection, RowMapping, bindparam, case, exists, select, update
from sqlalchemy.dialects.postgresql import insert

from beatline.clock import utc_now
from beatline.datasets.columns import clean_text
from beatline.errors import KeyMissingError, NotFoundError, SecretError, ServiceError
from beatline.ledger.model import definitions
from beatline_tasks.email.backoff import next_try
from beatline_tasks.email.errors import MailError, Trouble
from beatline_tasks.email.oauth import Tokens
from beatline_tasks.email.tables import accounts, messages

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

OK: Final = "ok"
_ERROR_CHARS: Final = 1000
_UNSENT: Final = exists().where(
    messages.c.mailbox == definitions.c.id, messages.c.sent_on_at.is_(None), messages.c.state == "new"
)
_STANDING: Final = (
    select(definitions.c.state.label("kept"), _UNSENT.label("unsent"), accounts)
    .select_from(definitions.outerjoin(accounts, accounts.c.mailbox == definitions.c.id))
    .where(definitions.c.id == bindparam("id"))
)


@dataclass(frozen=True, slots=True)
class Account:
    """What the last polls came to."""

    state: str
    version: int
    failures: int
    next_try_at: datetime | None
    last_try_at: datetime
    last_ok_at: datetime | None
    lag: int | None
    error: str | None
    token: bytes | None

    def backing_off(self, definition: Definition, now: datetime) -> bool:
        """Whether it is to be left alone; a mailbox that was changed since gets a try at once."""
        return self.next_try_at is not None and now < self.next_try_at and self.version == definition.version


@dataclass(frozen=True, slots=True)
class Standing:
    """A mailbox as a poll finds it: its account, the state its last polls kept, whether they left messages unsent."""

    account: Account | None
    state: dict[str, Any]
    unsent: bool


def find(conn: Connection, mailbox: UUID) -> Account | None:
    """The account of a mailbox; None before its first poll."""
    row = conn.execute(select(accounts).where(accounts.c.mailbox == mailbox)).mappings().one_or_none()
    return None if row is None else _account(row)


def standing(conn: Connection, definition: Definition) -> Standing:
    """How a mailbox stands when a poll begins, in one statement. Raises NotFoundError if it is gone."""
    row = conn.execute(_STANDING, {"id": definition.id}).mappings().one_or_none()
    if row is None:
        raise NotFoundError(definition.kind, definition.name, "It was removed meanwhile.")
    return Standing(None if row["mailbox"] is None else _account(row), row["kept"], row["unsent"])


def succeeded(conn: Connection, definition: Definition, lag: int | None) -> None:
    """A poll went well: what went before is over."""
    now = utc_now()
    values: dict[str, Any] = {"state": OK, "failures": 0, "next_try_at": None, "last_ok_at": now, "error": None}
    if lag is not None:
        values["lag"] = lag
    _put(conn, definition, now, values)


def failed(conn: Connection, definition: Definition, error: Exception, *, counts: bool = True) -> None:
    """A poll failed. Unless it `counts`, the mailbox is tried again at its next time."""
    now = utc_now()
    trouble = error.trouble if isinstance(error, MailError) else Trouble.PROTOCOL
    values: dict[str, Any] = {"state": str(trouble), "error": clean_text(str(error))[:_ERROR_CHARS]}
    if counts:
        account = find(conn, definition.id)
        same = account is not None and account.version == definition.version
        failures = (account.failures if account is not None and same else 0) + 1
        values |= {"failures": failures, "next_try_at": next_try(trouble, failures, definition.id, now)}
    _put(conn, definition, now, values)


def keep_token(conn: Connection, installation: Installation, definition: Definition, tokens: Tokens) -> None:
    """Keep what a provider gave, sealed."""
    sealed = installation.keyring.encrypt(tokens.to_json(), bound_to=_bound_to(definition.id))
    _put(conn, definition, utc_now(), {"token": sealed})


def open_token(installation: Installation, definition: Definition, account: Account | None) -> Tokens | None:
    """What was kept; None if nothing was, or if it no longer opens: then it is got anew.

    Raises ServiceError if this process does not hold its key: a token got anew would end the one that others use.
    """
    if account is None or account.token is None:
        return None
    try:
        return Tokens.from_json(installation.keyring.decrypt(account.token, bound_to=_bound_to(definition.id)))
    except KeyMissingError as exc:
        raise ServiceError(str(exc)) from exc
    except SecretError:
        return None


def _account(row: RowMapping) -> Account:
    return Account(**{name: row[name] for name in Account.__dataclass_fields__})


def _put(conn: Connection, definition: Definition, now: datetime, values: dict[str, Any]) -> None:
    values = {**values, "version": definition.version, "last_try_at": now}
    t = accounts.c  # what was tried before the mailbox was changed has no say any more
    same = t.version == definition.version
    changed = {"failures": case((same, t.failures), else_=0), "next_try_at": case((same, t.next_try_at), else_=None)}
    # A row that stands needs no lock: the mailbox's removal takes it along, before or after.
    if conn.execute(update(accounts).where(accounts.c.mailbox == definition.id).values({**changed, **values})).rowcount:
        return
    # A mailbox that is being removed gets no row any more: its removal waits for us, or we for it.
    ours = select(definitions.c.id).where(definitions.c.id == definition.id).with_for_update(key_share=True, read=True)
    if conn.execute(ours).scalar() is None:
        return
    new: dict[str, Any] = {"mailbox": definition.id, "state": "connecting", "failures": 0, **values}
    put = insert(accounts).values(new)
    conn.execute(put.on_conflict_do_update(index_elements=[accounts.c.mailbox], set_={**changed, **values}))


def _bound_to(mailbox: UUID) -> str:
    return f"email account:{mailbox}"
