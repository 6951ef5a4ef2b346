"""How long a mailbox that failed is left alone. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from beatline_tasks.email.errors import Trouble

# First wait and longest wait, in seconds. A server that refuses a login locks the account if it is asked too often.
_WAITS: Final = {
    Trouble.LOGIN: (900, 6 * 3600),
    Trouble.TOKEN: (900, 6 * 3600),
    Trouble.THROTTLED: (120, 3600),
    Trouble.NETWORK: (30, 1800),
    Trouble.PROTOCOL: (120, 3600),
}
_SPREAD: Final = 0.2


def next_try(trouble: Trouble, failures: int, mailbox: UUID, now: datetime) -> datetime:
    """When to try again after this many failures in a row: twice as long each time, and not all at once."""
    first_s, longest_s = _WAITS[trouble]
    wait_s = min(longest_s, first_s * 2 ** min(failures - 1, 20))
    return now + timedelta(seconds=wait_s * (1 + _SPREAD * (mailbox.int % 1000) / 1000))
