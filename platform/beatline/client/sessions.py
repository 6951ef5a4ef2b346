"""Runs that were accepted in a SQLAlchemy session: published after its commit, and never after a rollback.

What is accepted within a savepoint of the session belongs to it until it is released, and then to the transaction around
it. Nothing is published here, and a relay sees the rows once they are committed, where the session's commit is not the end
of it (it is bound to a connection whose own transaction goes on), and where a savepoint was opened on the connection itself:
of its rollback the session is told nothing. A SAVEPOINT that is sent as text nobody knows of.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, event

from beatline.client.accepting import publish_soon
from beatline.logs import get_logger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    from beatline.engine.messages import StoredMessage
    from beatline.installation import Installation

_KEPT_AS: Final = "beatline.accepted"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A run, the transaction or savepoint that it belongs to, and the connection on which its row was written."""

    transaction: SessionTransaction
    connection: Connection
    installation: Installation
    message: StoredMessage


@dataclass(slots=True)
class _Accepting:
    """What one session has accepted and not committed yet; `checked` is the transaction whose database was looked at."""

    accepted: list[_Accepted] = field(default_factory=list["_Accepted"])
    checked: tuple[SessionTransaction | None, Installation] | None = None


def is_checked(session: Session, installation: Installation) -> bool:
    """Whether `note_checked` was told so in this transaction."""
    checked = _of(session).checked
    return checked is not None and checked[0] is session.get_transaction() and checked[1] is installation


def note_checked(session: Session, installation: Installation) -> None:
    """This transaction reaches the installation's own database."""
    _of(session).checked = (session.get_transaction(), installation)


def publish_after_commit(
    session: Session, conn: Connection, installation: Installation, message: StoredMessage
) -> None:
    """Publish a message whose row was just written on `conn` once the session's transaction is committed."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None, "a row was written"  # noqa: S101  # by whoever calls this
    if _is_innermost(transaction, conn):
        _of(session).accepted.append(_Accepted(transaction, conn, installation, message))


def _of(session: Session) -> _Accepting:
    accepting: _Accepting | None = session.info.get(_KEPT_AS)
    if accepting is None:
        accepting = session.info[_KEPT_AS] = _Accepting()
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_soft_rollback", _rolled_back)
        event.listen(session, "after_transaction_end", _ended)
    return accepting


def _committed(session: Session) -> None:
    """A savepoint was released, or the transaction was committed."""
    accepting = _of(session)
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        around = savepoint.parent
        assert around is not None  # noqa: S101  # a savepoint is in a transaction
        accepting.accepted = [
            _Accepted(around, one.connection, one.installation, one.message) if one.transaction is savepoint else one
            for one in accepting.accepted
            if one.transaction is not savepoint or _is_innermost(around, one.connection)
        ]
        return
    root = session.get_transaction()
    done = [one for one in accepting.accepted if one.transaction is root and not one.connection.in_transaction()]
    accepting.accepted = []
    for installation in {id(one.installation): one.installation for one in done}.values():
        ours = [one for one in done if one.installation is installation]
        _publish(installation, [one.message for one in ours], asynchronous=ours[0].connection.dialect.is_async)


def _is_innermost(transaction: SessionTransaction, conn: Connection) -> bool:
    """Whether no savepoint but the session's own stands between this transaction of the session and a row of now."""
    savepoint = conn.get_nested_transaction()
    if savepoint is None or not transaction.nested:
        return savepoint is None
    begun: Any = transaction  # which savepoint it began on which connection, SQLAlchemy tells nobody else
    return begun._connections[conn][1] is savepoint


def _rolled_back(session: Session, previous_transaction: SessionTransaction) -> None:
    accepting = _of(session)
    accepting.accepted = [one for one in accepting.accepted if not _within(one.transaction, previous_transaction)]


def _ended(session: Session, transaction: SessionTransaction) -> None:
    """Whatever was neither committed nor released by now was closed, which rolls it back."""
    accepting = _of(session)
    accepting.accepted = [one for one in accepting.accepted if not _within(one.transaction, transaction)]


def _within(transaction: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is outer


def _publish(installation: Installation, messages: list[StoredMessage], *, asynchronous: bool) -> None:
    def publish() -> None:
        try:
            publish_soon(installation, messages)
        except Exception:
            log.exception("accepted_runs_not_published", count=len(messages), then="a recorder publishes them")

    if asynchronous:  # the loop that commits has others to serve
        threading.Thread(target=publish, name="beatline-publish", daemon=True).start()
    else:
        publish()
