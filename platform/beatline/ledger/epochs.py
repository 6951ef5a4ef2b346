"""The epoch: a number that grows whenever Redis may have lost data, so that fences grow over a wipe.

It stands in PostgreSQL, tied to the identity of the Redis server, and in Redis, where claims read it. Where the two
disagree, or the server is another one (restart, fail-over) or was emptied, a new epoch begins above both. Beside it
stands when it began: what was sent before then, Redis's memory cannot vouch for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, insert, select, text

from beatline.ledger.database import schema_of
from beatline.ledger.model import epochs

if TYPE_CHECKING:
    from redis import Redis

    from beatline.names import Keys


@dataclass(frozen=True, slots=True)
class Began:
    """What Redis has noted of the beginning of an epoch: when, by which server's clock, and whether data of an earlier
    epoch were there. A claim notes it too, where it finds that nobody has."""

    epoch: int
    since_ms: int
    survived: bool
    server: str

    @classmethod
    def parse(cls, noted: str | None) -> Began | None:
        """Read a note; None if there is none that can be read."""
        match (noted or "").split(" "):
            case [epoch, since_ms, ("0" | "1") as survived, server] if epoch.isdecimal() and since_ms.isdecimal():
                return cls(int(epoch), int(since_ms), survived == "1", server)
            case _:
                return None

    def note(self) -> str:
        """The text that `parse` reads, and claim.lua."""
        return f"{self.epoch} {self.since_ms} {int(self.survived)} {self.server}"


@dataclass(frozen=True, slots=True)
class Server:
    """A Redis server at one moment: who it is, the epoch it holds, its clock in ms, and what it noted of that epoch.

    `settled` names the data set that every live worker has met, see `reconcile`.
    """

    run_id: str
    replication_id: str
    epoch: int | None
    now_ms: int
    began: Began | None = None
    settled: str | None = None

    @property
    def data_set(self) -> str:
        """The same as long as nothing that Redis took can have been lost."""
        return f"{self.run_id} {self.replication_id} {self.epoch} {self.began.note() if self.began else ''}"


def look(redis: Redis, keys: Keys) -> Server:
    """What the server says of itself, in one round trip. Raises redis.RedisError."""
    client: Any = redis  # redis-py leaves much of itself untyped
    with client.pipeline(transaction=False) as pipe:
        pipe.info("server")
        pipe.info("replication")
        pipe.mget(keys.epoch, keys.since, keys.settled)
        pipe.time()
        server, replication, (epoch, noted, settled), (seconds, micros) = pipe.execute()
    began = Began.parse(noted)
    return Server(
        run_id=str(server["run_id"]),
        replication_id=str(replication["master_replid"]),
        epoch=int(epoch) if epoch is not None and str(epoch).isdecimal() else None,
        now_ms=seconds * 1000 + micros // 1000,
        began=began if began is not None and str(began.epoch) == epoch else None,
        settled=settled,
    )


class Epochs:
    """Keeps the epoch of one installation; costs PostgreSQL nothing while nothing changes."""

    def __init__(self, engine: Engine, redis: Redis, keys: Keys) -> None:
        self._engine, self._redis, self._keys = engine, redis, keys
        self._good: tuple[str, str, Began | None] | None = None

    def keep(self, server: Server) -> int | None:
        """Begin a new epoch if the server is not the one of the current epoch; the new epoch, else None."""
        if server.began is not None and self._good == (server.run_id, server.replication_id, server.began):
            return None
        with self._engine.begin() as conn:
            conn.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": f"beatline.epoch:{schema_of(conn)}"},
            )
            server = look(self._redis, self._keys)  # another recorder may have been faster
            last = conn.execute(select(epochs).order_by(epochs.c.epoch.desc()).limit(1)).one_or_none()
            known = last and (last.redis_run_id, last.replication_id, last.epoch)
            told = Began(last.epoch, round(last.since.timestamp() * 1000), True, last.redis_run_id) if last else None
            if told and known == (server.run_id, server.replication_id, server.epoch) and _is(server.began, told):
                if server.began is None:
                    self._redis.set(self._keys.since, told.note())  # an older Beatline began this epoch
                self._good = (server.run_id, server.replication_id, server.began or told)
                return None
            epoch = max(last.epoch if last else 0, server.epoch or 0) + 1
            began = _beginning(epoch, server, told)
            conn.execute(
                insert(epochs).values(
                    epoch=epoch,
                    redis_run_id=server.run_id,
                    replication_id=server.replication_id,
                    since=datetime.fromtimestamp(began.since_ms / 1000, UTC),
                )
            )
            # Before the commit: who dies in between leaves Redis ahead, and the next one goes above it.
            self._redis.mset({self._keys.epoch: epoch, self._keys.since: began.note()})
        self._good = (server.run_id, server.replication_id, began)
        return epoch


def _is(noted: Began | None, told: Began) -> bool:
    """Whether Redis speaks of the beginning that PostgreSQL knows, or does not say. Emptied, it speaks of a later one."""
    return noted is None or noted.since_ms == told.since_ms


def _beginning(epoch: int, server: Server, told: Began | None) -> Began:
    """When a new epoch began: now, unless a claim has noticed it before us, at this very server."""
    noted = server.began
    if noted is not None and noted.server == server.run_id and (told is None or noted.since_ms != told.since_ms):
        return replace(noted, epoch=epoch)
    return Began(epoch, server.now_ms, server.epoch is not None, server.run_id)
