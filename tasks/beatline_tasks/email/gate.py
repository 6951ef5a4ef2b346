"""The gate before a mail host: so many connections at once over all workers, and none while it is known to be dead.

A connection's place expires by itself, so a killed worker holds none for long. A dead server is tried by one poll at a
time; the others learn in no time that it is dead, and leave their threads to other servers.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from redis import RedisError

from beatline.errors import TransientError
from beatline_tasks.email.errors import HostBusyError, MailError

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline_tasks.email.mailbox import Mailbox

PROBE_S: Final = 30
"""How long a server that did not answer is left alone."""
_DOWN_LIFE_S: Final = 600
_GRACE_S: Final = 30
_RETRY_S: Final = 2.0
_WHY_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class HostDown:
    """The server did not answer a moment ago; says what happened then."""

    why: str


@contextmanager
def admitted(installation: Installation, mailbox: Mailbox) -> Generator[HostDown | None]:
    """Hold a place among the connections to the mailbox's host; HostDown if there is no use in connecting.

    A MailError in the block that says the host is down closes the gate for a while. Raises HostBusyError.
    """
    keys, redis = installation.keys, installation.redis
    connections, down = keys.email_connections(mailbox.host), keys.email_down(mailbox.place)
    token, limit = str(uuid4()), installation.settings.email_connections_per_host
    life_ms = int((mailbox.timeouts.run_s + _GRACE_S) * 1000)
    script: Any = redis.register_script((files("beatline_tasks.email") / "admit.lua").read_text(encoding="utf-8"))
    try:
        answer = [str(word) for word in script(keys=[connections, down], args=[token, limit, life_ms, PROBE_S * 1000])]
    except RedisError as exc:
        raise TransientError(f"Redis does not answer: {type(exc).__name__}.") from exc
    if answer[0] == "full":
        raise HostBusyError(mailbox.host, limit, _RETRY_S)
    if answer[0] == "down":
        yield HostDown(answer[1])
        return
    try:
        yield None
    except MailError as exc:
        if exc.host_down:
            _close(redis, down, str(exc))
        elif answer[0] == "probe":
            _quietly(lambda: redis.unlink(down))  # it does answer, if only to refuse
        raise
    else:
        if answer[0] == "probe":
            _quietly(lambda: redis.unlink(down))
    finally:
        _quietly(lambda: redis.zrem(connections, token))


def _close(redis: Any, down: str, why: str) -> None:
    def close() -> None:
        seconds, micros = redis.time()  # the clock that admit.lua reads; this machine's may be another
        next_ms = (seconds + PROBE_S) * 1000 + micros // 1000
        with redis.pipeline(transaction=True) as pipe:
            pipe.hset(down, mapping={"why": why[:_WHY_CHARS], "next": next_ms})
            pipe.expire(down, _DOWN_LIFE_S)
            pipe.execute()

    _quietly(close)


def _quietly(call: Any) -> None:
    # What could not be told to Redis expires there; the poll's own outcome is what counts.
    try:
        call()
    except RedisError:
        return
