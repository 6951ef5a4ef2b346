"""Says in words that a worker's leases lapsed because its thread for them was not let run: by a task, or by the machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from beatline.clock import monotonic_s
from beatline.ledger.events import Event
from beatline.logs import get_logger

ON_PREFORK: Final = (
    "a task that holds the interpreter (GIL) for longer than a lease belongs on a prefork pool; if none does, this process "
    "was frozen, or its machine has too little CPU"
)

log = get_logger(__name__)


class Standstill:
    """Measures the time between two renewals that Redis answered."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._last: float | None = None
        self._ran: frozenset[str] = frozenset()

    def away(self) -> None:
        """Redis did not answer: what passes until it does says nothing about this process."""
        self._last = None

    def renewed(self, running: Iterable[str], ended: Iterable[Event]) -> None:
        """The leases were renewed a moment ago; `running` are the runs here, `ended` those that ended last."""
        now, ran = monotonic_s(), frozenset(running)
        if self._last is not None and now - self._last > self._lease_s:
            suspects = sorted({*self._ran, *ran, *(f"{event.task} {event.run_id}" for event in tuple(ended))})
            log.warning("leases_lapsed", silent_s=round(now - self._last, 1), lease_s=self._lease_s, ran=suspects,
                        why=ON_PREFORK)  # fmt: skip
        self._last, self._ran = now, ran
