"""Delays as callers give them: which are refused, and which wait in PostgreSQL instead of in a queue. Pure.

A message whose time is near lies in its queue, and a worker keeps it until then, as Celery has it. One that is further off
would hold a worker's memory and lease for hours, and be lost with Redis: it leaves as an event (`transport`), waits as a
row in state *delayed*, and is sent when it is due (`ledger.delays`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from numbers import Real
from typing import Any, Final

from beatline.errors import DelayError

LONGEST_QUEUED_S: Final = 60.0
"""No delay over this is held in a worker's memory or in a queue."""

_AT_ONCE: Final = "Leave it out to run at once."
_ETA_RULE: Final = "give a datetime with its time zone, or ISO 8601 such as 2026-11-22T14:00:00+00:00"


def due(countdown: object, eta: object, now: datetime) -> datetime | None:
    """When a task is wanted, in UTC; None: at once. A countdown goes before an eta, and a naive eta is in UTC, as Celery
    has it; one that has passed is wanted at once.

    Raises DelayError, which names the field, if either of them is no delay.
    """
    at = None if eta is None else _given_eta(eta)
    if countdown is None:
        return at
    wait = _given_countdown(countdown, now)
    return now + wait if wait else at


def check_sent(positional: Sequence[object], options: Mapping[str, object], now: datetime) -> None:
    """Check `countdown` and `eta`, the first of Celery's options for a message, wherever they were put.

    Raises DelayError.
    """
    given = dict(zip(("countdown", "eta"), positional, strict=False))
    due(given.get("countdown", options.get("countdown")), given.get("eta", options.get("eta")), now)


def waits(eta: object, now: datetime) -> bool:
    """Whether a message with this in its header `eta` waits in PostgreSQL; what cannot be read does not."""
    if not eta:
        return False
    try:
        return moment_of(eta) - now > timedelta(seconds=LONGEST_QUEUED_S)
    except (ValueError, OverflowError):
        return False


def moment_of(eta: object) -> datetime:
    """The time that an eta means, in UTC. Raises ValueError if it is none, OverflowError if UTC cannot hold it."""
    if isinstance(eta, datetime):
        given = eta
    elif isinstance(eta, date | str):
        given = datetime.fromisoformat(str(eta))
    else:
        raise ValueError("neither a datetime nor text")  # noqa: TRY004  # this function's contract
    return given.replace(tzinfo=UTC) if given.utcoffset() is None else given.astimezone(UTC)


def with_eta(payload: str | bytes, eta: datetime | None) -> str:
    """The same message, wanted at another time, or at once. Raises ValueError if it is no message."""
    message: Any = json.loads(payload)
    try:
        message["headers"]["eta"] = eta and eta.isoformat()
    except (KeyError, TypeError) as exc:
        raise ValueError(f"not a message: {exc!r} is missing") from exc
    return json.dumps(message)


def _given_eta(eta: object) -> datetime:
    try:
        return moment_of(eta)
    except OverflowError:
        raise DelayError("eta", shown(eta), "is before the year 1 or after 9999 in UTC", _ETA_RULE) from None
    except (ValueError, TypeError):
        raise DelayError("eta", shown(eta), "is no time", _ETA_RULE) from None


def _given_countdown(countdown: object, now: datetime) -> timedelta:
    if isinstance(countdown, bool) or not isinstance(countdown, Real):
        raise DelayError("countdown", shown(countdown), "is no number of seconds", f"give seconds. {_AT_ONCE}")
    try:
        if countdown < 0:
            raise DelayError("countdown", shown(countdown), "is negative", f"give seconds from now. {_AT_ONCE}")
        if not math.isfinite(countdown):
            raise DelayError("countdown", shown(countdown), "never ends", f"give seconds. {_AT_ONCE}")
        wait = timedelta(seconds=float(countdown))
        _ = now + wait
    except OverflowError:
        raise DelayError("countdown", shown(countdown), "ends after the year 9999", "give seconds.") from None
    return wait


def shown(value: object) -> str:
    """The value for an error's text; what is neither number, time nor text is told by its type."""
    if not isinstance(value, bool | int | float | str | date):
        return f"a value of type {type(value).__name__}"
    try:
        return f"{value!r:.40}"
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a very large number"
