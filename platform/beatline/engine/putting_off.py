"""A message that lies in a queue although its time is far off: of a stock producer, or of an attempt that was lost while
its retry waited. It is not kept in a worker's memory until then, but waits where ours do."""

from __future__ import annotations

import json
from typing import Any

from kombu.utils.json import dumps
from redis.exceptions import RedisError

from beatline.clock import utc_now
from beatline.engine.delay import waits
from beatline.engine.messages import delayed_event, next_attempt
from beatline.engine.request import ClaimedMessage, attempt_event
from beatline.ledger.events import MESSAGE_LIMIT_BYTES
from beatline.ledger.states import EventKind
from beatline.logs import get_logger

log = get_logger(__name__)


def put_off(claim: ClaimedMessage, task: str, message: Any) -> bool:
    """Give a claimed message back as the run's next attempt, which waits in PostgreSQL: its own is over.

    False: its time is near, or it is too large to be kept there; then it waits in this worker, as Celery has it. Raises
    ValueError, or what else is wrong with a message that others wrote.
    """
    if not waits(message.headers.get("eta"), utc_now()):
        return False
    lease = claim.lease
    again = next_attempt(dumps(message._raw), lease.attempt + 1, lease.fence >> 32)
    if len(again.payload.encode()) > MESSAGE_LIMIT_BYTES:
        return False
    delayed = delayed_event(json.loads(again.payload), claim.queue, again.payload)
    returned = attempt_event(claim, task, EventKind.RETURNED)
    try:
        any_list = claim.settings.keys.queue("default")  # a key is wanted where no message is sent
        claim.keeper.give_back(lease, [returned.to_json(), delayed.to_json()], any_list, "", delayed=True)
    except RedisError as exc:
        log.warning("lease_left_to_expire", run_id=lease.run_id, error=str(exc))
    return True
