"""Reads events off the stream: each is valid and storable in PostgreSQL, or refused with the reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Final, TypeGuard

from beatline.ledger.events import SHOWN_CHARS, TRACEBACK_CHARS, Event, storable
from beatline.ledger.states import EventKind

_NAMES: Final = ("run_id", "task", "queue")
_NAME_CHARS: Final = 512
_IDS: Final = ("schedule", "root_id", "parent_id")
_SHOWN: Final = {
    **dict.fromkeys(("worker", "result", "error", "reason", "args_shown", "kwargs_shown"), SHOWN_CHARS),
    "traceback": TRACEBACK_CHARS,
}
_INT32: Final = 2**31 - 1
_INT64: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the stream, as it was read."""

    stream_id: str
    payload: str


@dataclass(frozen=True, slots=True)
class Known:
    """A valid event: times in UTC and ISO 8601 to the microsecond, so that their text sorts as they do."""

    entry: Entry
    event: Event
    at: str
    slot: str | None
    eta: str | None
    expires: str | None

    @property
    def day(self) -> str:
        """The partition day that the sender says; run_days has the last word."""
        return self.event.day

    def parts(self) -> tuple[Known, ...]:
        """The event, and before it the start that the end of a short attempt carries along."""
        began = self.event.began
        if began is None:
            return (self,)
        start = replace(
            self.event, kind=EventKind.STARTED, at=began, began=None, runtime_s=None, result=None, error=None,
            traceback=None, reason=None,
        )  # fmt: skip
        return (replace(self, event=start, at=_moment(began)), self)


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that is no event, and why."""

    entry: Entry
    reason: str


def read(entry: Entry) -> Known | Refused:
    """What an entry says. Texts that people see are made storable; names and numbers must be right as they are."""
    try:
        event = Event.from_json(entry.payload)
        return _checked(entry, event)
    except (ValueError, RecursionError) as exc:
        return Refused(entry, storable(f"{exc}" or type(exc).__name__, SHOWN_CHARS))


def _checked(entry: Entry, event: Event) -> Known:
    for name in _NAMES:
        _check_name(name, getattr(event, name), needed=True)
    for name in _IDS:
        if getattr(event, name) is not None:
            _check_name(name, getattr(event, name), needed=False)
    _check_integer("attempt", event.attempt, 1, _INT32, needed=True)
    _check_integer("fence", event.fence, -_INT64, _INT64)
    _check_integer("priority", event.priority, -32768, 32767)
    runtime = event.runtime_s
    if runtime is not None and not (_is_number(runtime) and math.isfinite(runtime)):
        raise ValueError(f"runtime_s is no number: {runtime!r}")
    if event.queued is not None and type(event.queued) is not bool:
        raise ValueError(f"queued is neither true nor false: {event.queued!r}")
    if event.delayed is not None and type(event.delayed) is not bool:
        raise ValueError(f"delayed is neither true nor false: {event.delayed!r:.80}")
    if event.delayed and (event.eta is None or event.message is None):
        raise ValueError("a delayed run needs an eta, and the message to send then")
    _check_message(event.message)
    _check_day(event.day)
    changed: dict[str, Any] = {}
    for name, limit in _SHOWN.items():
        text = getattr(event, name)
        if text is not None and (clean := _cleaned(name, text, limit)) is not text:
            changed[name] = clean
    if event.began is not None:
        _moment(event.began)
    slot, eta, expires = _time("slot", event.slot), _time("eta", event.eta), _time("expires", event.expires)
    return Known(entry, replace(event, **changed) if changed else event, _moment(event.at), slot, eta, expires)


def _check_name(name: str, value: object, *, needed: bool) -> None:
    if type(value) is not str or not (value or not needed):
        raise ValueError(f"{name} is no name: {value!r:.80}")
    if len(value) > _NAME_CHARS:
        raise ValueError(f"{name} has {len(value)} characters and may have {_NAME_CHARS}")
    if not value.isascii() or "\x00" in value:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} holds a lone surrogate: {value!r:.80}") from None
        if "\x00" in value:
            raise ValueError(f"{name} holds a NUL: {value!r:.80}")


def _check_message(message: object) -> None:
    if message is None:
        return
    if type(message) is not str:
        raise ValueError("message is no text")
    if not message.isascii():
        message.encode()  # UnicodeEncodeError is a ValueError, and does not repeat the text


def _check_integer(name: str, value: object, least: int, most: int, *, needed: bool = False) -> None:
    if value is None and not needed:
        return
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is no whole number from {least} to {most}: {value!r:.80}")


def _check_day(day: object) -> None:
    # 2026-W47-7 and 20261122 are ISO 8601 too, but days are compared as text.
    if type(day) is not str or date.fromisoformat(day).isoformat() != day:
        raise ValueError(f"day is no date: {day!r:.80}")


def _cleaned(name: str, value: object, limit: int) -> str:
    if type(value) is not str:
        raise ValueError(f"{name} is no text but {type(value).__name__}")  # the value may hold a secret
    if len(value) <= limit and value.isascii() and "\x00" not in value:
        return value
    return storable(value, limit)


def _time(name: str, value: object) -> str | None:
    if value is None:
        return None
    if type(value) is not str:
        raise ValueError(f"{name} is no time: {value!r:.80}")
    moment = datetime.fromisoformat(value)
    # Celery reads a naive time as UTC, which Beatline's apps are set to.
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return aware.astimezone(UTC).isoformat(timespec="microseconds")
    except OverflowError:
        raise ValueError(f"{name} is out of range: {value!r:.80}") from None


def _moment(at: object) -> str:
    if not _is_number(at):
        raise ValueError(f"at is no time: {at!r:.80}")
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    except (OverflowError, OSError):
        raise ValueError(f"at is out of range: {at!r:.80}") from None


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) is float or type(value) is int
