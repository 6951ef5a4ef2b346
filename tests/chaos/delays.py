"""Row 14: delays and retries that last longer than leases and time-outs."""

from __future__ import annotations

from typing import Final

from chaos.checker import Limits
from chaos.plan import delayed
from chaos.row import Row
from chaos.stage import Stage

MANY: Final = 10_000
"""Sent over four minutes: what is late then is late in being sent, and not in a worker's queue."""


def wait_long(stage: Stage) -> None:
    """Delays that a worker holds, delays that wait in PostgreSQL, and retries as late; at full length ten thousand."""
    stage.staff()
    calls, countdown_s = (MANY, (62.0, 302.0)) if stage.full else (60, (7.0, 11.0))
    stage.later(delayed(stage.rng, f"{stage.name}-d", calls, countdown_s)).finish()
    stage.later(delayed(stage.rng, f"{stage.name}-h", 20, (0.5, 1.9))).finish()
    stage.later(delayed(stage.rng, f"{stage.name}-r", 12, (0.0, 1.0), retry_s=9.0)).finish()
    stage.drain(420.0 if stage.full else None)


ROWS: Final = (Row(14, "delays and retries longer than the lease", wait_long, Limits(begun=1, late_s=2.0), full=True),)
