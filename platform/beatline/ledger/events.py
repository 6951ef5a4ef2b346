"""What workers and senders tell the ledger: one small JSON object an event, in a Redis stream.

An *accepted* event carries the whole message, up to MESSAGE_LIMIT_BYTES; every other event is at most EVENT_LIMIT_BYTES.
Applying events is commutative and idempotent: keyed on (run, attempt, kind).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any, Final, cast

from beatline.ledger.states import EventKind

MESSAGE_LIMIT_BYTES: Final = 256 * 1024
EVENT_LIMIT_BYTES: Final = 4 * 1024
SHOWN_CHARS: Final = 600
TRACEBACK_CHARS: Final = 2000
FIELD: Final = "e"
"""The field of a stream entry that holds the JSON."""

_UNREADABLE: Final = "unreadable"
"""The field of an entry that is no event, but tells of what is no message: why it is none."""
_CUTTABLE: Final = ("traceback", "error", "result", "reason", "args_shown", "kwargs_shown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to one attempt of a run.

    `at` is seconds since 1970 by the sender's clock; `day` is the run's partition day in ISO 8601. Texts are cut before
    they get here and hold neither NUL nor lone surrogates, which PostgreSQL cannot store.
    """

    kind: EventKind
    run_id: str
    attempt: int
    day: str
    at: float
    task: str
    queue: str
    worker: str | None = None
    fence: int | None = None
    runtime_s: float | None = None
    result: str | None = None
    error: str | None = None
    traceback: str | None = None
    reason: str | None = None
    began: float | None = None
    """On the end of a short attempt: when it began, so that its start needs no event of its own."""
    # only on accepted events
    queued: bool | None = None
    delayed: bool | None = None
    """It waits in PostgreSQL for its `eta`, and lies in no queue."""
    args_shown: str | None = None
    kwargs_shown: str | None = None
    priority: int | None = None
    schedule: str | None = None
    slot: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    eta: str | None = None
    expires: str | None = None
    message: str | None = None

    def to_json(self, *, began: float | None = None) -> str:
        """The event as it stands in the stream; fields that are None are left out.

        What would be over EVENT_LIMIT_BYTES without its message loses the ends of its longest texts.
        """
        facts = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        message = facts.pop("message", None)
        if began is not None:
            facts["began"] = began
        text = json.dumps(facts, separators=(",", ":"))
        while len(text) > EVENT_LIMIT_BYTES:
            longest = max(_CUTTABLE, key=lambda name: len(facts.get(name, "")))
            if len(facts.get(longest, "")) <= 1:
                break
            facts[longest] = facts[longest][: len(facts[longest]) // 2] + "…"
            text = json.dumps(facts, separators=(",", ":"))
        return text if message is None else f'{text[:-1]},"message":{json.dumps(message)}}}'

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """Read what to_json wrote. Raises ValueError if it is no event of this version or an older one.

        A field that a newer sender added is ignored, and what it says with it: so all recorders are replaced before any
        sender or worker.
        """
        raw: Any = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("an event is a JSON object")  # noqa: TRY004  # ValueError is this function's contract
        given = cast("dict[str, Any]", raw)
        try:
            said = {name: value for name, value in given.items() if name in _NAMES}
            said["kind"] = EventKind(given["kind"])
            return cls(**said)
        except (KeyError, TypeError) as exc:
            raise ValueError(str(given.get(_UNREADABLE) or f"not an event: {exc}")) from exc


_NAMES: Final = frozenset(f.name for f in fields(Event))


def late(end: Event) -> Event:
    """What the ledger is told in place of an end that was refused."""
    said = f"a late end: {end.kind.value}"
    return replace(end, kind=EventKind.REFUSED, reason=said, runtime_s=None, result=None, error=None, traceback=None)


_FIELDS: Final = tuple(f.name for f in fields(Event))


def unreadable_entry(text: str, queue: str, reason: str) -> str:
    """An entry that every recorder refuses for this reason, and keeps with its text sealed as a message is."""
    return json.dumps({_UNREADABLE: reason, "queue": queue, "message": text})


def storable(text: str, limit: int) -> str:
    """The text without what PostgreSQL cannot store (NUL, lone surrogates), cut to `limit` characters."""
    clean = text.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
