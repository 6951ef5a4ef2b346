"""RedBeat's entries as projections of rows: `definition` and `meta` as stock RedBeat reads them, our part in `ext`.

A stock entry is written whole or not at all, and only while the writer holds Beat's lock: a leader that was frozen and
comes back changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from beatline.installation import RedisClient
from beatline.ledger.events import storable
from beatline.schedules.model import Schedule, Trigger
from beatline_beat.seams import JSONEncoder, RedBeatSchedulerEntry
from beatline_beat.stock import last_run_of, stock_of

ASIDE: Final = -1.0
"""The score of an entry that no tick looks at: stock RedBeat ignores what is below zero as well."""


class BeatlineEntry(RedBeatSchedulerEntry):
    """A RedBeat entry of a schedule whose next slot is known."""

    upcoming: datetime
    ext: str = ""

    @classmethod
    def of(cls, schedule: Schedule, trigger: Trigger, upcoming: datetime, app: Any) -> BeatlineEntry:
        """The entry of a row."""
        options = {"queue": schedule.queue, "priority": schedule.priority}
        entry = cls(
            name=schedule.name,
            task=schedule.task,
            schedule=stock_of(trigger, upcoming),
            args=schedule.args,
            kwargs=schedule.kwargs,
            enabled=schedule.paused_at is None,
            options={name: value for name, value in options.items() if value is not None},
            last_run_at=last_run_of(trigger, schedule.decided_until, upcoming),
            app=app,
        )
        entry.upcoming = upcoming
        ext = {
            "id": str(schedule.id), "version": schedule.version, "hash": digest(entry.definition),
            "tz": schedule.trigger.get("tz", "UTC"), "trigger": schedule.trigger,
        }  # fmt: skip
        entry.ext = json.dumps(ext, separators=(",", ":"))
        return entry

    @property
    def definition(self) -> str:
        """The entry as stock RedBeat stores it."""
        return _stock_json(
            {
                "name": self.name, "task": self.task, "args": self.args, "kwargs": self.kwargs,
                "options": self.options, "schedule": self.schedule, "enabled": self.enabled,
            }
        )  # fmt: skip

    @property
    def meta(self) -> str:
        """When it last ran and how often, as stock RedBeat stores it."""
        return meta_json(self.last_run_at, self.total_run_count)

    @property
    def due_at(self) -> datetime:
        """The next slot: decided by the row, not computed from the last run."""
        return self.upcoming

    @property
    def score(self) -> float:
        """The next slot as seconds since 1970, with its fraction."""
        return self.upcoming.timestamp()


def digest(definition: str) -> str:
    """What tells whether a definition is still the one that we wrote."""
    return sha256(definition.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def meta_json(last_run_at: datetime, total_run_count: int) -> str:
    """RedBeat's `meta`; in UTC, since a zone's fold would be lost in it."""
    return _stock_json({"last_run_at": last_run_at.astimezone(UTC), "total_run_count": total_run_count})


def run_count(meta: str | None) -> int:
    """How often an entry has run, 0 if its `meta` does not say."""
    try:
        return int(json.loads(meta or "{}").get("total_run_count") or 0)
    except (ValueError, TypeError, AttributeError):
        return 0


def _stock_json(value: object) -> str:
    return json.dumps(value, cls=JSONEncoder)


@dataclass(frozen=True, slots=True)
class Ext:
    """Our part of an entry in Redis: of which row and version it is the projection."""

    id: UUID
    version: int
    hash: str

    @classmethod
    def parse(cls, text: str | None) -> Ext | None:
        """None for an entry that is not ours, or no longer readable as ours."""
        try:
            raw = json.loads(text or "")
            return cls(UUID(raw["id"]), int(raw["version"]), str(raw["hash"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Found:
    """An entry as it lies in Redis."""

    key: str
    score: float
    definition: str | None
    meta: str | None
    ext: Ext | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A change of one entry: its score, and what else is not empty.

    Without a definition only an entry that exists is changed. `expected`: only if it still has this score.
    `meta` replaces the old one if `ran`, else it is written only where there is none.
    """

    key: str
    score: float
    expected: float | None = None
    definition: str = ""
    ext: str = ""
    meta: str = ""
    ran: bool = False


_GUARD: Final = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return -1 end\n"

_PUT: Final = (
    _GUARD
    + """
local changed = 0
for i = 3, #KEYS do
  local key, a = KEYS[i], 2 + (i - 3) * 6
  local score, expected, definition, meta = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 4]
  local old = redis.call('ZSCORE', KEYS[1], key)
  if (old or definition ~= '') and (expected == '' or (old and tonumber(old) == tonumber(expected))) then
    local kind = redis.call('TYPE', key).ok
    if definition ~= '' and kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
    if definition ~= '' then redis.call('HSET', key, 'definition', definition, 'ext', ARGV[a + 3]) end
    if meta ~= '' then redis.call(ARGV[a + 5], key, 'meta', meta) end
    redis.call('ZADD', KEYS[1], score, key)
    changed = changed + 1
  end
end
return changed
"""
)

_DROP: Final = (
    _GUARD
    + """
for i = 3, #KEYS do
  redis.call('ZREM', KEYS[1], KEYS[i])
  redis.call('DEL', KEYS[i])
end
return #KEYS - 2
"""
)

_PER_CALL: Final = 250
"""Entries a script touches at once: short enough to stand between other clients' commands."""
_NAME_CHARS: Final = 200
_YEAR_3000: Final = 32_503_680_000.0


class Entries:
    """RedBeat's sorted set and hashes of one installation. Raises redis.RedisError where Redis does not answer."""

    def __init__(self, redis: RedisClient, conf: Any, token: str) -> None:
        self._redis, self._token = redis, token
        self._prefix: str = conf.key_prefix
        self._due: str = conf.schedule_key
        self._lock: str = conf.lock_key
        self._put, self._drop = redis.register_script(_PUT), redis.register_script(_DROP)

    def key_of(self, name: str) -> str:
        """The key of a schedule's entry."""
        return self._prefix + name

    def name_of(self, key: str) -> str:
        """The name of the schedule whose entry has this key, as PostgreSQL can store it whatever the key holds."""
        return storable(key.removeprefix(self._prefix), _NAME_CHARS)

    def page(self, now: datetime, limit: int) -> tuple[list[Found], datetime | None]:
        """Entries that are due, the earliest first, and when the first is due that is not. Two round trips."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrangebyscore(self._due, 0, now.timestamp(), start=0, num=limit, withscores=True)
            pipe.zrangebyscore(self._due, f"({now.timestamp()!r}", "+inf", start=0, num=1, withscores=True)
            due, later = pipe.execute()
        upcoming = datetime.fromtimestamp(min(later[0][1], _YEAR_3000), UTC) if later else None
        if not due:
            return [], upcoming
        with self._redis.pipeline(transaction=False) as pipe:
            for key, _ in due:
                pipe.hmget(key, "definition", "meta", "ext")
            answers: list[Any] = pipe.execute(raise_on_error=False)
        # A key of another type is an entry without fields, which is one more broken entry.
        hashes: list[list[str | None]] = [found if isinstance(found, list) else [None] * 3 for found in answers]
        return [
            Found(key, score, definition, meta, Ext.parse(ext))
            for (key, score), (definition, meta, ext) in zip(due, hashes, strict=True)
        ], upcoming

    def put(self, puts: Sequence[Put]) -> None:
        """Change entries, each whole or not at all, and none if the lock is no longer ours."""
        for start in range(0, len(puts), _PER_CALL):
            some = puts[start : start + _PER_CALL]
            args = [
                value
                for one in some
                for value in (
                    repr(one.score), "" if one.expected is None else repr(one.expected), one.definition, one.ext,
                    one.meta, "HSET" if one.ran else "HSETNX",
                )
            ]  # fmt: skip
            self._put([self._due, self._lock, *(one.key for one in some)], [self._token, *args])

    def drop(self, keys: Sequence[str]) -> None:
        """Take entries away, unless the lock is no longer ours."""
        for start in range(0, len(keys), _PER_CALL):
            self._drop([self._due, self._lock, *keys[start : start + _PER_CALL]], [self._token])
