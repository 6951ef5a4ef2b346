"""What workers are told to do, and the names under which they are told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from beatline.ledger.events import Event
    from beatline.names import Keys

CANCEL: Final = "beatline_cancel"
DRAIN: Final = "beatline_drain"
TOLD: Final = ""
"""A field of Redis's copy of the pauses that is there when no queue is paused, too: an empty copy is a lost one."""


@dataclass(frozen=True, slots=True)
class Order:
    """To cancel a run: for what reason, and whether its body is given no time."""

    reason: str
    hard: bool = False

    @classmethod
    def parse(cls, text: str) -> Order:
        """Read what stands on a run's record."""
        said = json.loads(text)
        return cls(str(said.get("reason") or "cancelled"), bool(said.get("hard")))

    def text(self) -> str:
        """The order by itself."""
        return json.dumps({"reason": self.reason, "hard": self.hard})

    def write(self, cancelled: Event) -> str:
        """The order as it stands on the record: the event that says that the run was cancelled, for any attempt."""
        return json.dumps({**json.loads(cancelled.to_json()), "hard": self.hard})


def paused_queues(redis: Any, keys: Keys) -> frozenset[str] | None:
    """The queues that are paused, as Redis knows; None if it does not: it is new, or has lost its data, and a recorder will
    tell it. One round trip; raises redis.RedisError.
    """
    known = frozenset(redis.hkeys(keys.paused))
    return known - {TOLD} if known else None
