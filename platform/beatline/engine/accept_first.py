"""BEATLINE_ACCEPT=postgres: a plain `.delay()` is accepted by its row, and published after that, at once or by a relay.

What a task sends while a worker executes it is accepted by Redis all the same: a worker never waits for PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from kombu.serialization import dumps
from redis.exceptions import RedisError

from beatline.engine.encoding import encodable
from beatline.engine.hurry import hurried
from beatline.engine.messages import new_message

if TYPE_CHECKING:
    from beatline.installation import Installation


def rows_first(app: Any) -> bool:
    """Whether what is sent now is accepted by its row."""
    installation: Installation = app.conf["beatline"]
    return installation.settings.accept == "postgres" and app.current_worker_task is None


def accept_first(
    app: Any, message: Any, wire: Mapping[str, Any], options: Mapping[str, Any], send: Callable[..., Any]
) -> Any:
    """Commit the run of a message that Celery has made, then send it; if Redis does not take it, a relay sends it.

    Raises ConflictError for a run id that exists, and ServiceError if PostgreSQL does not answer: then nothing was sent.
    """
    from beatline.client.accepting import PUBLISH_S, accept, left_to_relay, may_publish, run_of
    from beatline.ledger.database import guarded  # both only where this is asked for

    installation: Installation = app.conf["beatline"]
    queue: Any = options.get("queue") or app.amqp.default_queue
    with encodable(str(message.headers["task"])):
        body = dumps(message.body, serializer="json")
    stored = new_message(
        {**message.headers, **wire},
        body,
        {**message.properties, "priority": options.get("priority") or 0},
        queue if isinstance(queue, str) else queue.name,
    )
    with guarded(installation.settings), installation.engine.begin() as conn:
        accept(conn, installation, run_of(stored))
    if not may_publish(installation):
        return None
    try:
        with hurried(PUBLISH_S):
            return send(headers=dict(wire), **options)
    except (OperationalError, RedisError) as exc:
        left_to_relay(installation, stored.run_id, exc)
        return None
