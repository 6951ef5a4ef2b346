"""Brings a batch home: one transaction, and where an event breaks it, the batch is halved until that event is alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from beatline.failpoints import reach
from beatline.ledger.apply import apply, park
from beatline.ledger.database import sqlstate
from beatline.ledger.events import SHOWN_CHARS, storable
from beatline.ledger.intake import Entry, Known, Refused, read
from beatline.logs import get_logger
from beatline.secrets import Keyring

_POISON: Final = ("22", "23", "54")
"""Classes of PostgreSQL's errors that are the data's fault: data exception, integrity constraint, limit exceeded."""

_OURS: Final = (ValueError, TypeError, LookupError, ArithmeticError)
"""What an event that nobody foresaw may raise on the way: it must not stop the others."""

log = get_logger(__name__)


def write(engine: Engine, entries: Sequence[Entry], keyring: Keyring) -> int:
    """Every entry is applied or parked when this returns; how many were parked.

    Raises what SQLAlchemy raises if PostgreSQL does not answer: then part of the batch may stand, which does no harm.
    """
    read_entries = [read(entry) for entry in entries]
    refused = [one for one in read_entries if isinstance(one, Refused)]
    refused += _apply_or_halve(engine, [one for one in read_entries if isinstance(one, Known)], keyring)
    if refused:
        with engine.begin() as conn:
            park(conn, refused, keyring)
        for one in refused[:10]:
            log.error("event_parked", stream_id=one.entry.stream_id, reason=one.reason)
    return len(refused)


def _apply_or_halve(engine: Engine, events: list[Known], keyring: Keyring) -> list[Refused]:
    if not events:
        return []
    try:
        with engine.begin() as conn:
            apply(conn, [part for event in events for part in event.parts()], keyring)
            reach("recorder.written")
    except (DBAPIError, *_OURS) as exc:
        if not is_poison(exc):
            raise
        if len(events) == 1:
            return [Refused(events[0].entry, _reason(exc))]
        half = len(events) // 2
        return [
            *_apply_or_halve(engine, events[:half], keyring),
            *_apply_or_halve(engine, events[half:], keyring),
        ]
    return []


def is_poison(exc: Exception) -> bool:
    """Whether the data is at fault, so that trying again would not help."""
    if isinstance(exc, DBAPIError):
        return (sqlstate(exc) or "")[:2] in _POISON
    return isinstance(exc, _OURS)


def _reason(exc: Exception) -> str:
    said = exc.orig if isinstance(exc, DBAPIError) else f"{type(exc).__name__}: {exc}"
    return storable(str(said).strip(), SHOWN_CHARS)
