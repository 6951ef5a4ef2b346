"""The requests of this process that are under a lease, wherever Celery keeps them.

What waits for its rate limit lies in a bucket, where Celery shows it to nobody: neither a pause nor an order to cancel
would find it. Known as long as they live: a lost connection throws requests away without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from celery.worker import state

if TYPE_CHECKING:
    from beatline.engine.lease import LeaseKeeper
    from beatline.engine.request import LeasedRequest

_live: Final[WeakValueDictionary[tuple[int, int], LeasedRequest]] = WeakValueDictionary()
"""By the keeper of its lease, and the fence."""


def remember(request: LeasedRequest) -> None:
    """A request whose attempt was claimed."""
    _live[id(request.claim.keeper), request.claim.lease.fence] = request


def request_of(keeper: LeaseKeeper, fence: int) -> LeasedRequest | None:
    """The request of an attempt that is held here, and has not ended."""
    request = _live.get((id(keeper), fence))
    return None if request is None or request.is_over else request


def open_requests(keeper: LeaseKeeper) -> list[LeasedRequest]:
    """The requests of attempts that this keeper's worker has claimed, and that have not ended."""
    living = [reference() for reference in _live.valuerefs()]  # a list of its own: other threads make requests
    return [one for one in living if one is not None and one.claim.keeper is keeper and not one.is_over]


def leave_celery(request: LeasedRequest) -> None:
    """Undo that Celery reserved a request which had ended before its time, or its rate limit, let it through.

    Celery knows requests by their run: the run's next attempt, if it is here already, stays.
    """
    celery: Any = state
    if celery.requests.get(request.id) is request:
        celery.task_ready(request)
    else:
        celery.reserved_requests.discard(request)
