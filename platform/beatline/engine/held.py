"""What a worker process holds while an attempt is its own, and how the attempt ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beatline.engine.claim import Lease
from beatline.ledger.events import Event


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended: `state` as in Claims.finish, the event that says it, and when an untold attempt began.

    One that was `refused` where its task ran is only recorded as late.
    """

    lease: Lease
    state: Literal["ended", "closed"]
    event: Event
    began: float | None = None
    refused: bool = False


@dataclass(slots=True)
class Held:
    """A lease we hold, and how far its run has come here. `untold` is a begin that Redis has not been told of; a lease
    that `rests` has a run that has ended, and waits for its end to be committed."""

    lease: Lease
    handed_over: bool = False
    accepted: bool = False
    untold: Event | None = None
    tell_at: float = 0.0
    hung_at: float = float("inf")
    task: str = ""
    rests: bool = False
    parks: bool = False
    started: Event | None = None
