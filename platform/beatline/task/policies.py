"""What a task says of itself beyond Celery's options: `on_lost` and `durable`, in its decorator or on its class.

@shared_task(on_lost="dead")       lost after it began: parked, not repeated
@shared_task(durable="strict")     its end is in PostgreSQL before its message is acknowledged
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from beatline.engine import headers as h
from beatline.errors import TaskOptionError

REPEAT: Final = "repeat"
DEAD: Final = "dead"
DRAINED: Final = "drained"
STRICT: Final = "strict"

_ALLOWED: Final = {"on_lost": (REPEAT, DEAD), "durable": (DRAINED, STRICT)}
"""Each option's values, the default first."""


def parks_when_lost(task: Any) -> bool:
    """Whether a run of the task that lost its worker after it began is parked. Raises TaskOptionError."""
    return _value(task, "on_lost") == DEAD


def is_strict(task: Any) -> bool:
    """Whether the end of a run of the task is committed before it is acknowledged. Raises TaskOptionError."""
    return _value(task, "durable") == STRICT


def check(task: Any) -> None:
    """Raises TaskOptionError if an option of the task, or of a task's class, has a value that it cannot have."""
    for option in _ALLOWED:
        _value(task, option)


def wire(tasks: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The header that tells the reconciler, which need not know the task, what becomes of a lost run.

    What a task says goes before what is `given`, because a retry copies the headers of a task that may have been another
    one. Where the task is not known, `given` stands.
    """
    task = tasks.get(name)
    parks = is_marked(given) if task is None else parks_when_lost(task)
    return {h.ON_LOST: DEAD} if parks else {}


def mark(headers: MutableMapping[str, Any] | None) -> None:
    """Put the policy of a parking task on a message that no Beatline app sent, before it is introduced to the ledger."""
    if headers and not headers.get(h.V):
        headers[h.ON_LOST] = DEAD


def is_marked(headers: Mapping[str, Any]) -> bool:
    """Whether a message says itself that its run is parked if it is lost: its sender knew the task, or it was marked."""
    return headers.get(h.ON_LOST) == DEAD


def _value(task: Any, option: str) -> str:
    allowed = _ALLOWED[option]
    value: object = getattr(task, option, allowed[0])
    if value in allowed:
        return str(value)
    raise TaskOptionError(str(getattr(task, "name", None) or task), option, value, allowed)
