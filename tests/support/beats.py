"""What a test of Beat looks at: occurrences and runs in PostgreSQL, messages and entries in Redis."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import func, select, update

from beatline.ledger.model import occurrences, run_days, runs, schedules
from beatline.schedules import store
from beatline.schedules.model import Schedule, read_spec
from beatline.schedules.triggers import slots_after

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline_beat.scheduler import BeatlineScheduler


class MakeScheduler(Protocol):
    """Makes a scheduler of this test's app; each stands for a Beat of its own."""

    def __call__(self, **options: Any) -> BeatlineScheduler: ...


class BeatView:
    """One installation, seen from outside its Beat."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.redis = installation.redis
        self.prefix = installation.keys.redbeat

    def add(self, name: str, task: str = "test.add", **raw: Any) -> Schedule:
        """A new schedule, as an operator adds it."""
        with self.installation.engine.begin() as conn:
            return store.add(conn, read_spec(name, {"task": task, **raw}), who="test")

    def get(self, name: str) -> Schedule:
        with self.installation.engine.connect() as conn:
            return store.get(conn, name)

    def change(self, act: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of the store in a transaction of its own."""
        with self.installation.engine.begin() as conn:
            return act(conn, *args, **options)

    def overwrite(self, name: str, **values: Any) -> None:
        """Change a row by hand, past the store."""
        with self.installation.engine.begin() as conn:
            conn.execute(update(schedules).where(schedules.c.name == name).values(**values))

    def neglect(self, name: str, **by: float) -> datetime:
        """As if no Beat had run for so long: an interval is anchored then too. A later change makes Beat look."""
        since = datetime.now(UTC) - timedelta(**by)
        values: dict[str, Any] = {"decided_until": since}
        trigger = self.get(name).trigger
        if trigger["type"] == "interval":
            values["trigger"] = {**trigger, "start": since.isoformat().replace("+00:00", "Z")}
        with self.installation.engine.begin() as conn:
            newest = conn.execute(select(func.max(schedules.c.revision))).scalar_one()
            conn.execute(
                update(schedules).where(schedules.c.name == name).values(**values, revision=newest + 1, version=99)
            )
        return since

    def outcomes(self, name: str) -> list[dict[str, Any]]:
        """The occurrences of a schedule, in order."""
        query = (
            select(occurrences)
            .join(schedules, schedules.c.id == occurrences.c.schedule_id)
            .where(schedules.c.name == name)
            .order_by(occurrences.c.slot)
        )
        with self.installation.engine.connect() as conn:
            return [dict(row) for row in conn.execute(query).mappings()]

    def kinds(self, name: str) -> list[tuple[str, int]]:
        """(outcome, number of slots) of each occurrence of a schedule, in order."""
        return [(row["outcome"], row["slots"]) for row in self.outcomes(name)]

    def fired(self, name: str) -> list[str]:
        """The ids of the runs that a schedule has fired, in order."""
        return [row["run_id"] for row in self.outcomes(name) if row["run_id"]]

    def runs(self) -> list[dict[str, Any]]:
        with self.installation.engine.connect() as conn:
            return [dict(row) for row in conn.execute(select(runs).order_by(runs.c.slot)).mappings()]

    def days_of_runs(self) -> dict[str, Any]:
        with self.installation.engine.connect() as conn:
            return {row.id: row.day for row in conn.execute(select(run_days))}

    def messages(self, queue: str = "default") -> list[dict[str, Any]]:
        """The messages that lie in a queue, whatever their priority, the oldest first."""
        key = self.installation.keys.queue(queue)
        lists = [key, *(f"{key}\x06\x16{step}" for step in (3, 6, 9))]
        return [json.loads(text) for name in lists for text in reversed(self.redis.lrange(name, 0, -1))]

    def sent(self, queue: str = "default") -> list[str]:
        """The run ids of the messages in a queue."""
        return [message["headers"]["id"] for message in self.messages(queue)]

    def entry(self, name: str) -> dict[str, str]:
        """The hash of a schedule's entry."""
        found: dict[str, str] = self.redis.hgetall(self.prefix + name)
        return found

    def score(self, name: str) -> float | None:
        found: float | None = self.redis.zscore(f"{self.prefix}:schedule", self.prefix + name)
        return found

    def names(self) -> list[str]:
        """The schedules that have an entry."""
        return sorted(key.removeprefix(self.prefix) for key in self.redis.zrange(f"{self.prefix}:schedule", 0, -1))

    def leader(self) -> str | None:
        """Who holds the lock."""
        found: str | None = self.redis.get(f"{self.prefix}:lock")
        return found

    def assert_accounted(self, name: str) -> int:
        """Each slot up to the last decision has exactly one outcome; returns how many slots that are."""
        schedule = self.get(name)
        trigger = schedule.spec().trigger
        told: list[datetime] = []
        for row in self.outcomes(name):
            stretch = list(slots_after(trigger, row["slot"] - timedelta(microseconds=1), row["last_slot"]))
            assert len(stretch) == row["slots"]
            told += stretch
        expected = list(slots_after(trigger, schedule.created_at, schedule.decided_until))
        assert told == expected
        return len(told)


def body_of(message: dict[str, Any]) -> list[Any]:
    """Args and kwargs of a message."""
    body: list[Any] = json.loads(base64.b64decode(message["body"]))
    return body


def tick_until(scheduler: Any, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Tick as Celery's service does, until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "Beat has ticked long enough"
        time.sleep(min(scheduler.tick(), 0.25))
