"""Which messages Redis's memory cannot vouch for, and what PostgreSQL's word on one comes to. Pure.

Redis remembers the end of a run for a day (`claim.RECORD_LIFE_S`), and a Redis that was restarted, replaced or emptied may
remember less than it was told. So where it has no record of a run, that means "new" only for a message that is younger
than its memory. `claim.lua` compares, by its own clock; what it needs to know of a message is made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from beatline.engine import headers as h
from beatline.ledger.states import ENDED, RunState

DOUBTED_AGE_MS: Final = 23 * 3600 * 1000
"""An hour less than records live, for the clocks of senders."""
CLOCKS_MS: Final = 5_000
"""How far a sender's clock may be ahead of Redis's. What was sent so long after an epoch began is asked about too: that
costs a question, while one question too few costs a run that is executed twice."""
LATEST_S: Final = 253_402_300_799
"""The end of the year 9999: beyond it numbers lose their milliseconds in Lua."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What PostgreSQL knows of a run: its state, and of which attempt that is."""

    state: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Vouched:
    """PostgreSQL's word, given in `epoch`, that an attempt is not over; `running`: that somebody has begun it."""

    epoch: int
    running: bool = False


Fate = Literal["claim", "wait", "drop"]


def sent_ms(head: Mapping[str, Any], *, redelivered: bool) -> int | None:
    """When a message was sent, in ms since 1970: 0 if it is to be doubted in any case, None if in none.

    A stock producer writes no time. Its message is doubted once it was delivered before; one of Beatline's without a
    readable time is damaged.
    """
    if h.PUBLISHED not in head:
        return 0 if redelivered or head.get(h.V) else None
    said = head[h.PUBLISHED]
    if isinstance(said, bool) or not isinstance(said, int | float):
        return 0
    if isinstance(said, float) and not math.isfinite(said):
        return 0
    return int(max(0, min(said, LATEST_S)) * 1000)  # bounded first: what is too large for a float raises


def was_redelivered(head: Mapping[str, Any], delivery: Mapping[str, Any]) -> bool:
    """Whether kombu put the message back, after a worker had taken it."""
    return bool(head.get("redelivered") or delivery.get("redelivered"))


def fate_of(standing: Standing | None, attempt: int) -> Fate:
    """What becomes of a message that asks for `attempt` of a run of which Redis has no record.

    A run that PostgreSQL does not know ended nowhere: its events are in the stream still, with its record, or were lost
    together with it. *wait*: somebody began it, and may still be at it.
    """
    if standing is None:
        return "claim"
    if standing.state in ENDED or standing.attempt > attempt:
        return "drop"
    if standing.state == RunState.RUNNING:
        return "wait"
    over = standing.attempt == attempt and standing.state in (RunState.RETRYING, RunState.LOST)
    return "drop" if over else "claim"
