"""The two systems of a trial: Beatline with its recorder and ledger, and stock Celery as the negative control."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from celery import chain
from kombu import pools
from sqlalchemy import text

import beatline
from beatline.engine import delay
from beatline.installation import Installation
from beatline.ledger.database import open_engine
from beatline.ledger.suspects import lost_suspects
from beatline.settings import Settings
from chaos import stock
from chaos.checker import ENDED
from chaos.history import Execution, Standing
from chaos.journal import FOLDER
from chaos.plan import Item
from chaos.workload import LONGEST_QUEUED_S, wait_in_postgres_from
from support.apps import close, open_app
from support.keys import connect
from support.processes import Spawned, Spawner, variables_of

TESTS: Final = Path(__file__).resolve().parent.parent
QUEUE: Final = "default"
LEASE_S: Final = 3.0
FULL_LEASE_S: Final = 20.0
HELD_S: Final = 2.0
"""From which delay on a run waits in PostgreSQL; a minute at full length."""
HELD_FULL_S: Final = delay.LONGEST_QUEUED_S
CRASH_QUEUES: Final = tuple(f"crash{number}" for number in range(40))
BOOKED: Final = ("unacked", "unacked_index")
"""A message may stay here whose worker lost its connection while the message waited for an older attempt: kombu sends it
again after the visibility time-out, and the claim drops it. That is only right for a run that has ended."""
STEPS: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
EXPECTED: Final = ("run:", "unacked_mutex")
"""What may be left with a time to live: the records of runs, which stay for a day, and kombu's lock of its own sweep."""


class Asked(Protocol):
    """What takes the calls of a sender."""

    def send(self, item: Item, *, past_proxy: bool = False) -> None:
        """Ask for the runs of an item, as a user does; `past_proxy` by another way to Redis."""
        ...


class Side(Asked, Protocol):
    """One system: how it is asked, started, and seen to be at rest."""

    name: str
    app: Any
    drain_s: float

    def start(self) -> None:
        """Start what runs beside the workers."""
        ...

    def worker(
        self, pool: str, concurrency: int, env: Mapping[str, str], queues: Sequence[str], *, ready: bool
    ) -> Spawned:
        """Start a worker."""
        ...

    def at_rest(self, running: Callable[[], Sequence[Execution]]) -> str:
        """Why it is not over yet; empty: nothing will come any more. `running` reads the whole journal: who knows by
        another way does not ask, or else a trial of ten thousand runs is slowed down by who looks on."""
        ...

    def standings(self) -> Mapping[str, Standing] | None:
        """How each run stands in its ledger; None if it has none."""
        ...

    def residue(self) -> list[str]:
        """What it left in Redis that it should not have."""
        ...

    def waiting(self) -> frozenset[str]:
        """The runs that it still has in its queues, where it has no ledger to tell."""
        ...

    def close(self) -> None:
        """Close every connection of this process."""
        ...


class Ours:
    """Beatline: its own database for each trial, a recorder, and workers."""

    name = "ours"
    drain_s = 75.0

    def __init__(
        self,
        spawner: Spawner,
        folder: Path,
        redis_url: str,
        database_url: str,
        workers_url: str,
        *,
        lease_s: float,
        full: bool,
    ) -> None:
        self._spawner, self._redis_url = spawner, redis_url
        held_s = HELD_FULL_S if full else HELD_S
        wait_in_postgres_from(held_s)
        self._env = {FOLDER: str(folder / "journal"), "PYTHONPATH": python_path(), LONGEST_QUEUED_S: str(held_s)}
        self.settings = Settings.load(
            redis_url=workers_url,
            database_url=database_url,
            home=folder / "home",
            secret_keys=f"chaos:{base64.b64encode(secrets.token_bytes(32)).decode()}",
            task_modules=("chaos.workload",),
            queues=CRASH_QUEUES,
            lease_s=FULL_LEASE_S if full else lease_s,
            lease_renew_s=(FULL_LEASE_S if full else lease_s) / 4,
            log_level="INFO",
        )
        self._opened = open_app(self.settings)
        self.app = self._opened.__enter__()
        self._redis = connect(redis_url)
        self.recorder: Spawned | None = None

    def start(self) -> None:
        """Start a recorder."""
        self.recorder_again({})

    def recorder_again(self, env: Mapping[str, str]) -> Spawned:
        """Start one more recorder, ready to drain."""
        variables = {**self._env, **env}
        recorder = self._spawner.spawn(
            "beatline.cli", "recorder", settings=self.settings, env=variables, name="recorder"
        )
        recorder.wait_for("recorder_started", 60)
        self.recorder = recorder
        return recorder

    def worker(
        self, pool: str, concurrency: int, env: Mapping[str, str], queues: Sequence[str], *, ready: bool
    ) -> Spawned:
        """Start a worker of the platform."""
        variables = {**variables_of(self.settings), **self._env, **env}
        return _worker(self._spawner, "beatline", pool, concurrency, variables, queues, ready)

    def sender(self, key: str, queue: str, how: str, env: Mapping[str, str]) -> Spawned:
        """Start a process that asks for one run, after it has said so in the journal."""
        variables = {**self._env, **env}
        return self._spawner.spawn(
            "chaos.sender", key, queue, how, settings=self.settings, env=variables, name="sender"
        )

    def send(self, item: Item, *, past_proxy: bool = False) -> None:
        """Ask as an application does: `.apply_async()`, a chain, or `beatline.submit`."""
        send(self.app, item, self._redis_url if past_proxy else None)

    def at_rest(self, running: Callable[[], Sequence[Execution]]) -> str:
        """At rest, every run has ended in the ledger and no event is left to be drained."""
        del running
        keys = self.settings.keys
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.xlen(keys.events)
            pipe.zcard(keys.leases)
            for step in STEPS:
                pipe.llen(f"{keys.queue(QUEUE)}{step}")
            events, leases, *lists = pipe.execute()
        if events or leases or any(lists):
            return f"{events} events, {leases} leases, {sum(lists)} messages"
        with open_engine(self.settings).connect() as conn:
            rows = conn.execute(text("SELECT id, state FROM beatline.runs WHERE ended_at IS NULL LIMIT 5")).all()
        return f"not ended: {', '.join(f'{row.id} {row.state}' for row in rows)}" if rows else ""

    def standings(self) -> Mapping[str, Standing]:
        """The rows of the ledger."""
        with open_engine(self.settings).connect() as conn:
            rows = conn.execute(
                text("SELECT id, state, attempt, coalesce(reason, error) AS said FROM beatline.runs")
            ).all()
        return {row.id: Standing(row.id, row.state, row.attempt, row.said) for row in rows}

    def residue(self) -> list[str]:
        """Keys that are neither empty, nor permanent, nor records of runs with a time to live."""
        keys = self.settings.keys
        left: list[str] = []
        for key in sorted(map(str, self._redis.scan_iter(count=1000))):
            name = key.removeprefix(keys.prefix)
            lives_s = self._redis.ttl(key)
            if key in keys.permanent or name.startswith("_kombu.") or lives_s == -2:
                continue
            if name in BOOKED and not self._booked_open():
                continue
            if not (name.startswith(EXPECTED) and lives_s > 0):
                left.append(f"{name} ({lives_s} s)")
        counts = {keys.leases: self._redis.zcard(keys.leases), keys.events: self._redis.xlen(keys.events)}
        installation: Installation = self.app.conf["beatline"]
        with installation.engine.connect() as conn:
            counts["lost suspects"] = lost_suspects(installation, conn).count
        return left + [f"{count} in {key}" for key, count in counts.items() if count]

    def _booked_open(self) -> bool:
        """Whether kombu's book of deliveries has a message of a run that has not ended."""
        booked = {
            json.loads(one)[0]["headers"]["id"] for one in self._redis.hvals(f"{self.settings.keys.prefix}unacked")
        }
        ended = {key for key, one in self.standings().items() if one.state in ENDED}
        return bool(booked - ended)

    def waiting(self) -> frozenset[str]:
        """The ledger tells."""
        return frozenset()

    def undrained(self, pipe: Any) -> None:
        """Have a transaction count the events that have not been drained."""
        pipe.xlen(self.settings.keys.events)

    def close(self) -> None:
        """Close the app's connections, the engine's, and ours."""
        self._opened.__exit__(None, None, None)
        pools.reset()  # kombu keeps them by URL, closed ones too
        open_engine(self.settings).dispose()
        self._redis.close()


class Stock:
    """Celery alone: late acks and a visibility time-out."""

    name = "control"
    drain_s = stock.VISIBILITY_S + 30.0

    def __init__(self, spawner: Spawner, folder: Path, redis_url: str, workers_url: str) -> None:
        self._spawner, self._redis_url = spawner, redis_url
        self._env = {FOLDER: str(folder / "journal"), "PYTHONPATH": python_path(), stock.URL: workers_url}
        self.app: Any = stock.configured(workers_url)
        self.app.loader.import_default_modules()
        self._redis = connect(redis_url)

    def start(self) -> None:
        """There is nothing beside the workers."""

    def worker(
        self, pool: str, concurrency: int, env: Mapping[str, str], queues: Sequence[str], *, ready: bool
    ) -> Spawned:
        """Start a worker as it comes."""
        return _worker(self._spawner, "chaos.stock", pool, concurrency, {**self._env, **env}, queues, ready)

    def send(self, item: Item, *, past_proxy: bool = False) -> None:
        """Ask with `.apply_async()`; there is no other way."""
        send(self.app, replace(item, how="delay"), self._redis_url if past_proxy else None)

    def at_rest(self, running: Callable[[], Sequence[Execution]]) -> str:
        """At rest, no queue and no book of deliveries has a message, and nothing is executed."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hlen("{stock}:unacked")
            for step in STEPS:
                pipe.llen(f"{{stock}}:{QUEUE}{step}")
            counts = pipe.execute()
        if any(counts):
            return f"{sum(counts)} messages"
        executed = running()
        return f"{len(executed)} executions" if executed else ""

    def standings(self) -> None:
        """It keeps no ledger."""

    def residue(self) -> list[str]:
        """Nothing is asked of it."""
        return []

    def waiting(self) -> frozenset[str]:
        """The ids of the messages in its lists, and in its book of deliveries."""
        found = [json.loads(one)[0] for one in self._redis.hvals("{stock}:unacked")]
        for step in STEPS:
            found += [json.loads(one) for one in self._redis.lrange(f"{{stock}}:{QUEUE}{step}", 0, -1)]
        return frozenset(one["headers"]["id"] for one in found)

    def close(self) -> None:
        """Close the app's connections and ours."""
        close(self.app)
        pools.reset()
        self._redis.close()


def python_path() -> str:
    """Where the processes of a trial find its tasks, before what this process was given."""
    return os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


def send(app: Any, item: Item, url: str | None = None) -> None:
    """Ask as a user does: `beatline.submit`, or Celery's own calls, to the app's broker or to `url`."""
    if item.how == "submit":
        beatline.submit(app.tasks[task_of(item)], arguments_of(item), run_id=item.keys[0], queue=item.queue)
        return
    made = {"args": arguments_of(item), "immutable": True}
    steps = [app.signature(task_of(item), task_id=key, **made) for key in item.keys]
    if item.queue is not None:
        steps = [step.set(queue=item.queue) for step in steps]
    asked: Any = chain(*steps, app=app) if len(steps) > 1 else steps[0]
    if url is not None:
        with app.connection_for_write(url) as connection:
            asked.apply_async(connection=connection)
    elif item.countdown_s is not None:
        asked.apply_async(countdown=item.countdown_s)
    else:
        asked.apply_async()


def task_of(item: Item) -> str:
    """The name of the task that an item asks for."""
    return "chaos.strict" if item.strict else "chaos.work"


def arguments_of(item: Item) -> tuple[float, int, float]:
    """What the task is told: how long to take, how often to ask for a retry, and after what time."""
    return (item.takes_s, 1 if item.shape == "retry" else 0, item.retry_s)


class Sender:
    """Asks an app, and nothing else: for a sender in a process of its own."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def send(self, item: Item, *, past_proxy: bool = False) -> None:
        """Ask, by the only way there is."""
        del past_proxy
        send(self._app, item)


def _worker(
    spawner: Spawner, app: str, pool: str, concurrency: int, env: Mapping[str, str], queues: Sequence[str], ready: bool
) -> Spawned:
    name = f"{pool}{secrets.token_hex(3)}"
    options = ("-Q", ",".join(queues), "-P", pool, "-c", str(concurrency), "-n", f"{name}@%h", "--loglevel", "INFO")
    spawned = spawner.spawn("celery", "-A", app, "worker", *options, "--without-gossip", env=env, name=name)
    if ready:
        spawned.wait_for(r"\bready\b", 60)
    return spawned
