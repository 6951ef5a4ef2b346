"""How all mailboxes fare, in one table: state, lag, last error in words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, func, select

from beatline.clock import utc_now
from beatline.definitions import Definition, Finding, store
from beatline.ledger.database import guarded
from beatline_tasks.email import accounts
from beatline_tasks.email.accounts import Account
from beatline_tasks.email.database import transaction
from beatline_tasks.email.scheduling import KIND
from beatline_tasks.email.tables import accounts as accounts_table
from beatline_tasks.email.tables import messages, quarantine

if TYPE_CHECKING:
    from beatline.installation import Installation

_INTERVAL_S: Final = 60
_OVERDUE: Final = 5
"""Periods without any try after which nobody seems to poll: no schedule, no beat, or no worker."""


def status(installation: Installation) -> Finding:
    """Show the state of every mailbox: when it was last read, what is behind, what went wrong."""
    now = utc_now()
    with guarded(installation.settings), transaction(installation) as conn:
        unhandled = _counts(conn, messages, messages.c.state == "failed")
        definitions = store.list_definitions(conn, KIND)
        found = conn.execute(select(accounts_table)).mappings()
        fares = {row["mailbox"]: Account(**{name: row[name] for name in Account.__dataclass_fields__}) for row in found}
        stored, set_aside = _counts(conn, messages), _counts(conn, quarantine)
    rows = [
        _row(one, fares.get(one.id), now)
        | {
            "messages": stored.get(one.id, 0),
            "failed": unhandled.get(one.id, 0),
            "quarantine": set_aside.get(one.id, 0),
        }
        for one in definitions
    ]
    good = sum(1 for row in rows if row["state"] == accounts.OK)
    return Finding(ok=True, text=f"{len(rows)} mailboxes, {good} of them ok.", rows=tuple(rows))


def state_of(definition: Definition, account: Account | None, now: datetime) -> str:
    """The state in words."""
    if definition.parked is not None:
        return "parked"
    if account is None:
        return "never polled"
    every = timedelta(seconds=float(definition.spec.get("interval_s") or _INTERVAL_S))
    waiting = account.next_try_at is not None and account.next_try_at > now
    if not waiting and now - account.last_try_at > every * _OVERDUE:
        return "overdue"
    return account.state


def _counts(conn: Connection, table: Table, *those: ColumnElement[bool]) -> dict[UUID, int]:
    query = select(table.c.mailbox, func.count()).where(*those).group_by(table.c.mailbox)
    return {row[0]: row[1] for row in conn.execute(query)}


def _row(definition: Definition, account: Account | None, now: datetime) -> dict[str, Any]:
    return {
        "name": definition.name,
        "state": state_of(definition, account, now),
        "lag": account.lag if account else None,
        "messages": 0,
        "failed": 0,
        "quarantine": 0,
        "last_ok": account.last_ok_at if account else None,
        "failures": account.failures if account else 0,
        "next_try": account.next_try_at if account else None,
        "error": definition.parked or (account.error if account else None),
    }
