"""Which Redis keys may outlive a test: those with a time to live, and those known as permanent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import redis

from beatline.names import Keys
from beatline.queues.topology import TOPOLOGY

# kombu's own, behind its global_keyprefix: bindings of fanout exchanges, and messages delivered but not acknowledged.
_KOMBU: Final = ("_kombu.", "unacked", "unacked_index")
_PRIORITY_STEP: Final = "\x06\x16"


def connect(url: str) -> Any:
    """A client that speaks text. Untyped on purpose: redis-py's signatures are unions of sync and async."""
    return cast("Any", redis.Redis).from_url(url, decode_responses=True)


def _is_permanent(key: str, keys: Keys, queues: Iterable[str]) -> bool:
    if key in keys.permanent or key.startswith(keys.redbeat):
        return True
    if key.partition(_PRIORITY_STEP)[0] in {keys.queue(name) for name in queues}:
        return True
    if key in {keys.index(name) for name in queues}:
        return True
    rest = key.removeprefix(keys.prefix)
    return rest in _KOMBU or rest.startswith(_KOMBU[0])


def leaked(url: str, keys: Keys, foreign_queues: Iterable[str] = ()) -> list[str]:
    """Keys under the prefix without a time to live that nothing declares as permanent."""
    queues = [queue.name for queue in TOPOLOGY] + list(foreign_queues)
    with connect(url) as client:
        found = [str(key) for key in client.scan_iter(match=_literal(keys.prefix) + "*", count=1000)]
        suspects = [key for key in found if not _is_permanent(key, keys, queues)]
        return sorted(key for key in suspects if client.pttl(key) == -1)


def strays(url: str, prefix: str) -> list[str]:
    """Keys that were written without the installation's prefix."""
    with connect(url) as client:
        return sorted(key for key in map(str, client.scan_iter(count=1000)) if not key.startswith(prefix))


def remove(url: str, prefix: str) -> None:
    """Delete every key under the prefix; all keys if it is empty."""
    with connect(url) as client:
        for key in list(client.scan_iter(match=_literal(prefix) + "*", count=1000)):
            client.unlink(key)


def _literal(prefix: str) -> str:
    """The prefix as a SCAN pattern that means itself."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in prefix)
