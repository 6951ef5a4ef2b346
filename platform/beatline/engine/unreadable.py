"""What lies in a queue and is no message: refused with a reason, told to the ledger, and never the end of a worker.

kombu takes for granted that it reads what kombu wrote. Whatever else it pops would be gone from Redis with the exception
that it raises.
"""

from __future__ import annotations

import binascii
import json
from typing import Any, TypeGuard

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from beatline.engine import seams
from beatline.ledger.events import MESSAGE_LIMIT_BYTES, unreadable_entry


class UnreadableError(Exception):
    """It is no message; the text says why, and holds nothing of its content."""


class Message(seams.Message):
    """kombu's message. Raises UnreadableError for what cannot be made one, or not acknowledged later."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        _check(payload)
        try:
            super().__init__(payload, channel=channel, **options)
        except Exception as exc:  # whatever a codec raises
            raise UnreadableError(f"its body cannot be decoded: {_said(exc)}") from exc


def read(item: bytes | str) -> Any:
    """The JSON that was popped from a list. Raises UnreadableError."""
    try:
        return loads(bytes_to_str(item))
    except Exception as exc:  # also what kombu makes of a `__type__` in it, and RecursionError
        raise UnreadableError(f"it is no JSON: {_said(exc)}") from exc


def entry(item: bytes | str, queue: str, reason: str) -> str:
    """What the ledger is told of it: it parks this with the reason, and what was popped is sealed there."""
    raw = item if isinstance(item, bytes) else item.encode("utf-8", "backslashreplace")
    kept = raw[:MESSAGE_LIMIT_BYTES].decode("utf-8", "backslashreplace")
    return unreadable_entry(kept, queue, f"what lay in the queue {queue} is no message ({len(raw)} bytes): {reason}")


def _check(payload: Any) -> None:
    if not _is_object(payload):
        raise UnreadableError("it is no JSON object")
    if not isinstance(payload.get("body"), str):
        raise UnreadableError("its body is no text")
    properties = payload.get("properties")
    if not _is_object(properties):
        raise UnreadableError("it has no properties")
    if not isinstance(properties.get("delivery_tag"), str | int):
        raise UnreadableError("it has no delivery_tag")
    if not _is_object(properties.get("delivery_info") or {}):
        raise UnreadableError("its delivery_info is no JSON object")
    if not _is_object(payload.get("headers") or {}):
        raise UnreadableError("its headers are no JSON object")


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _said(exc: Exception) -> str:
    # Only these are known to repeat nothing of what they could not read.
    harmless = isinstance(exc, json.JSONDecodeError | UnicodeError | binascii.Error)
    return f"{type(exc).__name__}: {exc}" if harmless else type(exc).__name__
