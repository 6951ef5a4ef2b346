"""Events that a worker commits itself, instead of leaving them to the recorder: those of `durable="strict"`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from beatline.ledger.apply import apply
from beatline.ledger.events import Event
from beatline.ledger.intake import Entry, Known, read
from beatline.ledger.write import is_poison, write

if TYPE_CHECKING:
    from beatline.installation import Installation


def commit(installation: Installation, events: Sequence[Event], in_time: Callable[[], bool]) -> bool:
    """Write events in one transaction. False: nothing was written, because `in_time` said so right before the commit.

    What PostgreSQL or we cannot read is parked, as the recorder does. Raises what SQLAlchemy raises if PostgreSQL does
    not answer: then it is not known whether they stand, and they may be committed again.
    """
    engine, keyring = installation.engine, installation.keyring
    entries = [Entry(f"strict:{event.run_id}:{event.attempt}:{event.kind}", event.to_json()) for event in events]
    known = [one for one in map(read, entries) if isinstance(one, Known)]
    if len(known) == len(entries):
        try:
            with engine.connect() as conn, conn.begin() as transaction:
                apply(conn, [part for one in known for part in one.parts()], keyring)
                if not in_time():
                    transaction.rollback()
                    return False
                return True  # leaving commits
        except Exception as exc:
            if not is_poison(exc):
                raise
    if not in_time():
        return False
    write(engine, entries, keyring)
    return True
