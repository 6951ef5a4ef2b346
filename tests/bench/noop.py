"""Case noop: how many tasks that do nothing a second, against Celery as it comes.

Both sides: one prefork worker with two children, late acknowledgement, eight messages reserved, no results, task
events on as Flower needs them, the same Valkey that writes its append-only file. Messages lie in the queue before the
worker starts; time runs from when a twentieth is done, so that no side pays for its start, until the last one is
acknowledged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from celery import Celery

from beatline.app import create_app
from beatline.clock import monotonic_s
from bench.cpu import Meter
from bench.machine import Machine
from bench.record import Record, Round, Sample
from bench.tasks import noop
from support.processes import Spawned
from support.waiting import wait_until

TASKS: Final = 10_000
ROUNDS: Final = 3
MUST: Final = 0.6
WARM: Final = TASKS // 20
DRAIN_S: Final = 180.0
STOCK_PREFIX: Final = "{stock}:"
CONCURRENCY: Final = 2
TESTS: Final = Path(__file__).resolve().parent.parent

GUARANTEES: Final = {
    "ours": "late ack, lease and fence on each run, every run and attempt recorded in PostgreSQL by a recorder",
    "baseline": "late ack; a lost worker's messages come back after the visibility time-out; no history",
}


def run(machine: Machine) -> Record:
    """Measure ours and stock Celery in turn, the first side changing each round."""
    rounds: list[Round] = []
    for number in range(ROUNDS):
        order = (_ours, _stock) if number % 2 else (_stock, _ours)
        measured = {side: side(machine) for side in order}
        (ours, others_a), (stock, others_b) = measured[_ours], measured[_stock]
        rounds.append(Round(ours, stock, max(others_a, others_b)))
    return Record(
        case="noop",
        unit="tasks/s",
        must=MUST,
        command="make bench CASE=noop",
        guarantees=GUARANTEES,
        rounds=rounds,
    )


def _stock(machine: Machine) -> tuple[Sample, float]:
    env = {"BENCH_REDIS_URL": machine.settings.redis_url, "BENCH_PREFIX": STOCK_PREFIX, "PYTHONPATH": str(TESTS)}
    os.environ.update(env)
    from bench.stock import app

    return _measure(machine, app, STOCK_PREFIX, "bench.stock", env, {})


def _ours(machine: Machine) -> tuple[Sample, float]:
    env = {"PYTHONPATH": str(TESTS)}
    recorder = machine.spawner.spawn("beatline.cli", "recorder", settings=machine.settings)
    app = create_app(machine.settings)
    try:
        return _measure(machine, app, machine.settings.key_prefix, "beatline", env, {"recorder": recorder})
    finally:
        recorder.stop()


def _measure(
    machine: Machine, app: Celery, prefix: str, name: str, env: Mapping[str, str], beside: Mapping[str, Spawned]
) -> tuple[Sample, float]:
    published = _Asked.of(machine.redis)
    enqueued_s = _enqueue(app)
    published = _Asked.of(machine.redis) - published
    _wait_for_history(machine, "queued", beside)
    options = ("-Q", "default", "-P", "prefork", "-c", str(CONCURRENCY), "--prefetch-multiplier", "4")
    quiet = ("--without-gossip", "--without-mingle", "--loglevel", "WARNING", "--task-events")
    settings = machine.settings if beside else None
    worker = machine.spawner.spawn("celery", "-A", name, "worker", *options, *quiet, settings=settings, env=env)
    left = _Left(machine.redis, prefix)
    wait_until(lambda: left.count() <= TASKS - WARM, DRAIN_S, what=f"{name} has warmed up")
    meter = Meter({"worker": worker.pid, **{n: one.pid for n, one in beside.items()}, **machine.server_pids()})
    already, asked = TASKS - left.count(), _Asked.of(machine.redis)
    wait_until(lambda: left.count() == 0, DRAIN_S, what=f"{name} has done every task")
    drained_s, done = meter.elapsed_s(), TASKS - already
    asked = _Asked.of(machine.redis) - asked
    used, others = meter.used_s(), meter.others_share()
    behind_s = _wait_for_history(machine, "succeeded", beside)
    worker.stop()
    details = {
        "enqueued_per_s": TASKS / enqueued_s,
        "redis_commands_per_publish": published.commands / TASKS,
        "redis_round_trips_per_publish": published.round_trips / TASKS,
        "redis_commands_per_task": asked.commands / done,
        "redis_round_trips_per_task": asked.round_trips / done,
        "history_behind_s": behind_s,
        **{f"cpu_ms_per_task_{who}": seconds * 1000 / done for who, seconds in used.items()},
    }
    return Sample(done / drained_s, details), others


def _enqueue(app: Celery) -> float:
    """Publish every task; how many seconds that took."""
    began_s = monotonic_s()
    with app.connection_for_write() as connection, connection.Producer() as producer:
        task = app.tasks[noop.name]
        for _ in range(TASKS):
            task.apply_async(producer=producer)
    return monotonic_s() - began_s


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a server has been asked by all its clients: commands, and how often it read some of them from a connection,
    which for what fits into one read is a round trip. Looking on asks fifty times a second, on either side."""

    commands: int
    round_trips: int

    @classmethod
    def of(cls, redis: Any) -> Self:
        said = redis.info("stats")
        return cls(int(said["total_commands_processed"]), int(said["total_reads_processed"]))

    def __sub__(self, before: _Asked) -> _Asked:
        return _Asked(self.commands - before.commands, self.round_trips - before.round_trips)


class _Left:
    """Messages in the queue or delivered and not acknowledged."""

    def __init__(self, redis: Any, prefix: str) -> None:
        self._redis, self._prefix = redis, prefix

    def count(self) -> int:
        """How many there are now."""
        with self._redis.pipeline(transaction=True) as pipe:
            for step in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
                pipe.llen(f"{self._prefix}default{step}")
            pipe.hlen(f"{self._prefix}unacked")
            pipe.zcard(f"{self._prefix}leases")
            return sum(map(int, pipe.execute()))


def _wait_for_history(machine: Machine, state: str, beside: Mapping[str, Spawned]) -> float:
    """Wait until the recorder has taken every event; how many seconds it was behind. 0 without a recorder."""
    if not beside:
        return 0.0
    began_s = monotonic_s()
    stream = machine.settings.keys.events
    wait_until(lambda: machine.redis.xlen(stream) == 0, DRAIN_S, what=f"the history knows every run as {state}")
    return monotonic_s() - began_s
