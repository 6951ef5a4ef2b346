"""Random histories of runs: every event that could be told of them, also those that contradict one another."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from beatline.ledger.events import Event
from beatline.ledger.intake import Entry, Known, read
from beatline.ledger.states import EventKind

DAY: Final = "2026-11-22"
_START: Final = 1_795_300_000.0
_BY_HOLDER: Final = frozenset(EventKind) - {EventKind.ACCEPTED, EventKind.QUEUED, EventKind.CANCELLED, EventKind.DEAD}


def histories(runs: int = 3) -> st.SearchStrategy[list[Known]]:
    """Sets of events of a few runs. One thing is told once: (run, attempt, kind, fence) names an event."""
    events = st.builds(
        _event,
        run=st.sampled_from([f"run-{number}" for number in range(runs)]),
        kind=st.sampled_from(list(EventKind)),
        attempt=st.integers(1, 3),
        fence=st.integers(1, 3),
        tick=st.integers(0, 40),
        queued=st.booleans(),
    )
    return st.lists(
        events,
        min_size=1,
        max_size=25,
        unique_by=lambda k: (k.event.run_id, k.event.attempt, k.event.kind, k.event.fence),
    )


def _event(run: str, kind: EventKind, attempt: int, fence: int, tick: int, queued: bool) -> Known:
    facts: dict[str, Any] = {}
    if kind is EventKind.ACCEPTED:
        facts = {"queued": queued, "message": f"message of {run} {attempt}", "args_shown": f"({attempt},)",
                 "schedule": "nightly" if attempt == 1 else None, "priority": attempt}  # fmt: skip
    elif kind in _BY_HOLDER:
        facts = {"worker": f"w{fence}", "fence": fence, "result": f"{kind} {fence}", "runtime_s": fence / 4}
    elif kind is not EventKind.QUEUED:
        facts = {"reason": f"{kind} of {attempt}"}
    at = _START + tick / 8 + fence / 1000  # two ends by two workers are never of the same microsecond
    event = Event(kind=kind, run_id=run, attempt=attempt, day=DAY, at=at, task=f"t.{attempt}", queue="q", **facts)
    known = read(Entry(f"{tick}-{attempt}", event.to_json()))
    assert isinstance(known, Known), known
    return known
