"""`expires` as callers give it: until when a run may begin. One that is no time, or has passed, is refused at the caller.

What has expired before it began ends as cancelled, with the reason *expired*: where a worker takes it, or by the reconciler,
if no worker ever does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from numbers import Real
from typing import Any, Final

from beatline.engine.delay import moment_of, shown
from beatline.errors import DelayError
from beatline.task.cancelling import in_body

_PLACE: Final = 7
"""Of `expires` among what `send_task` takes after the arguments."""
_RULE: Final = (
    "give seconds from now, a datetime with its time zone, or ISO 8601; leave it out, and the run waits for ever"
)


def check_sent(app: Any, rest: Sequence[object], options: Mapping[str, object], now: datetime) -> None:
    """Check the expiry of a task that code sends. Raises DelayError.

    What Celery sends by itself once a body has ended (a link, a chain's next step), and a retry, is accepted as it is, and
    ends as expired: an error there would be that of a run which has succeeded.
    """
    expires = rest[_PLACE] if len(rest) > _PLACE else options.get("expires")
    if expires is None:
        return
    current = app.current_worker_task
    if current is not None and (not in_body() or options.get("task_id") == current.request.id):
        return
    check(expires, now)


def check(expires: object, now: datetime) -> None:
    """Raises DelayError if this is no time that is still to come."""
    if not isinstance(expires, bool) and isinstance(expires, Real):
        _check_seconds(expires, now)
        return
    try:
        at = moment_of(expires)
    except OverflowError:
        raise DelayError("expires", shown(expires), "is before the year 1 or after 9999 in UTC", _RULE) from None
    except (ValueError, TypeError):
        raise DelayError("expires", shown(expires), "is no time", _RULE) from None
    if at <= now:
        raise DelayError("expires", shown(expires), "has passed already", _RULE)


def _check_seconds(expires: Any, now: datetime) -> None:
    if math.isnan(expires) or expires <= 0:
        raise DelayError("expires", shown(expires), "has passed before anything can begin", _RULE)
    try:
        _ = now + timedelta(seconds=float(expires))
    except OverflowError:
        raise DelayError("expires", shown(expires), "is after the year 9999", _RULE) from None
