"""Folds a batch of events into one row a run and one row an attempt, whatever order they came in. Pure.

`apply` merges these rows into the tables by the same rules, which make the result a function of the set of events:

- a run's state and what goes with it are those of the event with the greatest progress; of two ends of one attempt the
  first stays (by `at`, then by name);
- what the sender said of a run (arguments, message) is that of the accepted event with the greatest attempt;
- an attempt's worker and fence are those of the greatest fence; its end is the furthest, of two the first;
- refused ends are a set of fences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from beatline.ledger.events import Event
from beatline.ledger.intake import Known
from beatline.ledger.states import ENDED, EventKind, RunState, progress, run_state

OF_STATE: Final = ("state", "progress", "attempt", "changed_at", "task", "queue", "worker", "result", "error", "reason",
                   "ended_at")  # fmt: skip
"""Columns of a run that come with its state."""

OF_MESSAGE: Final = ("message", "message_attempt", "priority", "schedule", "slot", "root_id", "parent_id", "args_shown",
                     "kwargs_shown", "eta", "expires")  # fmt: skip
"""Columns of a run that come with its message."""

OF_END: Final = ("outcome", "ended_at", "runtime_s", "result", "error", "traceback", "reason")
"""Columns of an attempt that come with its end."""

Row = dict[str, Any]

_ENDS_RUN: Final = frozenset(str(state) for state in ENDED)
_OPENS: Final = (EventKind.ACCEPTED, EventKind.QUEUED)


@dataclass(slots=True)
class Batch:
    """What a set of events comes to. `messages` are not encrypted yet; they stay in their rows as text."""

    days: dict[str, str] = field(default_factory=dict[str, str])
    runs: dict[str, Row] = field(default_factory=dict[str, Row])
    attempts: dict[tuple[str, int], Row] = field(default_factory=dict[tuple[str, int], Row])


def fold(events: Iterable[Known]) -> Batch:
    """The rows that a set of events comes to; the order of the events makes no difference."""
    batch = Batch()
    for known in events:
        event = known.event
        day = batch.days.get(event.run_id)
        if day is None or event.day < day:
            batch.days[event.run_id] = event.day
        _fold_run(batch.runs, known)
        if event.kind not in _OPENS:
            _fold_attempt(batch.attempts, known)
    return batch


def _fold_run(runs: dict[str, Row], known: Known) -> None:
    event = known.event
    kind = EventKind.QUEUED if event.kind is EventKind.ACCEPTED and event.queued else event.kind
    state, reached = run_state(kind), progress(kind, event.attempt)
    if kind is EventKind.ACCEPTED and event.delayed:
        state = RunState.DELAYED
    if state is None or reached is None:
        return
    row = runs.setdefault(event.run_id, {"id": event.run_id})
    if "state" not in row or (reached, row["changed_at"], row["state"]) > (row["progress"], known.at, state):
        row |= _state(event, state, reached, known.at)
    if event.kind is EventKind.ACCEPTED:
        row["accepted_at"] = min(row.get("accepted_at", known.at), known.at)
        if event.attempt > row.get("message_attempt", 0):
            row |= _message(known)
    if kind is EventKind.QUEUED:
        row["queued_at"] = max(row.get("queued_at", known.at), known.at)
    elif kind is EventKind.STARTED:
        row["started_at"] = max(row.get("started_at", known.at), known.at)


def _state(event: Event, state: RunState, reached: int, at: str) -> Row:
    return {
        "state": state.value,
        "progress": reached,
        "attempt": event.attempt,
        "changed_at": at,
        "task": event.task,
        "queue": event.queue,
        "worker": event.worker,
        "result": event.result,
        "error": event.error,
        "reason": event.reason,
        "ended_at": at if state in ENDED else None,
    }


def _message(known: Known) -> Row:
    event = known.event
    return {
        "message": event.message,
        "message_attempt": event.attempt,
        "priority": event.priority,
        "schedule": event.schedule,
        "slot": known.slot,
        "root_id": event.root_id,
        "parent_id": event.parent_id,
        "args_shown": event.args_shown,
        "kwargs_shown": event.kwargs_shown,
        "eta": known.eta,
        "expires": known.expires,
    }


def _fold_attempt(attempts: dict[tuple[str, int], Row], known: Known) -> None:
    event = known.event
    row = attempts.get((event.run_id, event.attempt))
    if row is None:
        row = attempts[event.run_id, event.attempt] = _no_attempt(event)
    if event.kind is EventKind.REFUSED:
        row["refused_fences"] = sorted({*row["refused_fences"], event.fence or 0})
        return
    _fold_holder(row, event)
    if event.kind is EventKind.STARTED:
        row["started_at"] = min(row.get("started_at", known.at), known.at)
    elif "outcome" not in row or _end_order(event.kind.value, known.at) < _end_order(row["outcome"], row["ended_at"]):
        row |= {
            "outcome": event.kind.value,
            "ended_at": known.at,
            "runtime_s": event.runtime_s,
            "result": event.result,
            "error": event.error,
            "traceback": event.traceback,
            "reason": event.reason,
        }


def _no_attempt(event: Event) -> Row:
    return {"run_id": event.run_id, "attempt": event.attempt, "refused_fences": []}


def _end_order(outcome: str, at: str) -> tuple[bool, str, str]:
    return (outcome not in _ENDS_RUN, at, outcome)


def _fold_holder(row: Row, event: Event) -> None:
    had, has = _rank(row.get("fence")), _rank(event.fence)
    held, holds = row.get("worker"), event.worker
    if has > had:
        row["fence"], row["worker"] = event.fence, holds or held
    elif held is None or (has == had and holds is not None and holds < held):
        row["worker"] = holds


def _rank(fence: int | None) -> float:
    return float("-inf") if fence is None else fence
