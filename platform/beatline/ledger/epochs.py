"""The epoch: a number that grows whenever Redis may have lost data, so that fences grow over a wipe.

It stands in PostgreSQL, tied to the identity of the Redis server, and in Redis, where claims read it. Where the two
disagree, or the server is another one (restart, fail-over) or was emptied, a new epoch begins above both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, insert, select, text

from beatline.clock import utc_now
from beatline.ledger.database import schema_of
from beatline.ledger.model import epochs

if TYPE_CHECKING:
    from redis import Redis

    from beatline.names import Keys


@dataclass(frozen=True, slots=True)
class Server:
    """A Redis server at one moment: who it is, the epoch it holds, its clock in ms."""

    run_id: str
    replication_id: str
    epoch: int | None
    now_ms: int


def look(redis: Redis, keys: Keys) -> Server:
    """What the server says of itself, in one round trip. Raises redis.RedisError."""
    client: Any = redis  # redis-py leaves much of itself untyped
    with client.pipeline(transaction=False) as pipe:
        pipe.info("server")
        pipe.info("replication")
        pipe.get(keys.epoch)
        pipe.time()
        server, replication, epoch, (seconds, micros) = pipe.execute()
    return Server(
        run_id=str(server["run_id"]),
        replication_id=str(replication["master_replid"]),
        epoch=int(epoch) if epoch is not None and str(epoch).isdecimal() else None,
        now_ms=seconds * 1000 + micros // 1000,
    )


class Epochs:
    """Keeps the epoch of one installation; costs PostgreSQL nothing while nothing changes."""

    def __init__(self, engine: Engine, redis: Redis, keys: Keys) -> None:
        self._engine, self._redis, self._keys = engine, redis, keys
        self._good: tuple[str, str, int | None] | None = None

    def keep(self, server: Server) -> int | None:
        """Begin a new epoch if the server is not the one of the current epoch; the new epoch, else None."""
        if self._good == (server.run_id, server.replication_id, server.epoch):
            return None
        with self._engine.begin() as conn:
            conn.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": f"beatline.epoch:{schema_of(conn)}"},
            )
            server = look(self._redis, self._keys)  # another recorder may have been faster
            last = conn.execute(select(epochs).order_by(epochs.c.epoch.desc()).limit(1)).one_or_none()
            known = last and (last.redis_run_id, last.replication_id, last.epoch)
            if known == (server.run_id, server.replication_id, server.epoch):
                self._good = known
                return None
            epoch = max(last.epoch if last else 0, server.epoch or 0) + 1
            conn.execute(
                insert(epochs).values(
                    epoch=epoch,
                    redis_run_id=server.run_id,
                    replication_id=server.replication_id,
                    since=utc_now(),
                )
            )
            # Before the commit: who dies in between leaves Redis ahead, and the next one goes above it.
            self._redis.set(self._keys.epoch, epoch)
        self._good = (server.run_id, server.replication_id, epoch)
        return epoch
