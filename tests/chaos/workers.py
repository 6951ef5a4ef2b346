"""Rows 1, 2, 3, 5, 13 and 17: what is done to workers."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext, suppress
from typing import Final

from chaos.checker import Limits
from chaos.plan import LATER_S, Mix, pauses
from chaos.row import Row
from chaos.sides import LEASE_S
from chaos.stage import Stage, Worker

LONG: Final = (0.3, 1.2)
"""Runs that last long enough for a fault to meet them."""
LONGEST_S: Final = 2.0
OTHERS_S: Final = 60.0
"""What is put back goes to the end of its queue, behind all that was asked for."""


def kill_children(stage: Stage) -> None:
    """Row 1: SIGKILL to pool children in the middle of their tasks."""
    stage.staff((("prefork", 2), ("prefork", 2)))
    stage.load(Mix(calls=24, over_s=9.0, takes_s=LONG))
    for pause_s in pauses(stage.rng, 4, (1.2, 2.0)):
        stage.pause(pause_s)
        worker = stage.rng.choice(stage.workers)
        running = stage.busy(worker)
        child = stage.rng.choice(sorted(running[0].pids - {worker.pid}))
        with stage.fault(f"SIGKILL to child {child}", killed={child}), suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    stage.drain()


def kill_workers(stage: Stage) -> None:
    """Row 2: SIGKILL to a whole worker in the middle of its tasks, again and again."""
    stage.staff()
    stage.load(Mix(calls=32, over_s=12.0, takes_s=LONG, later_s=LATER_S))
    for pause_s in pauses(stage.rng, 4, (0.6, 2.0)):
        stage.pause(pause_s)
        worker = stage.rng.choice(stage.workers)
        stage.busy(worker)
        stage.kill(worker, f"SIGKILL to a {worker.pool} worker")
        stage.replace(worker)
    stage.drain()


def freeze_while_fetching(stage: Stage) -> None:
    """Row 3: a worker that waits for a message is frozen, is sent one, and is killed."""
    for number in range(3):
        worker = stage.hire(*(("prefork", 1) if number % 2 else ("threads", 1)))
        stage.wait_for_done({stage.ask()}, 30)
        stage.pause(stage.rng.uniform(0.2, 0.6))
        stage.signal_group(worker, signal.SIGSTOP)
        for _ in range(2):
            stage.ask()
        stage.pause(1.3)  # its BRPOP waits for a second: until then Redis gives it the message
        stage.kill(worker, "SIGKILL to a worker frozen while it fetched")
        stage.workers.remove(worker)
    stage.staff()
    stage.drain()


def freeze_over_the_lease(stage: Stage) -> None:
    """Row 5: a worker stands still for longer than its lease, in the middle of tasks, and comes back."""
    stage.staff((("prefork", 2), ("threads", 2), ("prefork", 2)))
    stage.load(Mix(calls=45, over_s=10.0, takes_s=(0.8, LONGEST_S)))
    for frozen in stage.rng.sample(stage.workers, 2):
        stage.pause(stage.rng.uniform(1.0, 2.0))
        running = stage.busy(frozen)
        with stage.fault(f"SIGSTOP to a {frozen.pool} worker", frozen=frozen.pids()):
            stage.signal_group(frozen, signal.SIGSTOP)
            try:
                _wait_for_others(stage, [one.key for one in running])
            finally:
                stage.signal_group(frozen, signal.SIGCONT)
    stage.drain()


def _wait_for_others(stage: Stage, keys: list[str]) -> None:
    """Until other workers have done what the frozen one had begun: what it writes when it is back comes too late."""
    with suppress(AssertionError) if stage.ours is None else nullcontext():
        stage.wait_for_done(set(keys), OTHERS_S)


def outlast_the_lease(stage: Stage) -> None:
    """Row 13: tasks that last three times as long as a lease, with three workers."""
    stage.staff((("prefork", 2), ("threads", 2), ("prefork", 2)))
    for number in range(6):
        stage.ask(takes_s=3 * LEASE_S + 0.3 * number)
    stage.drain()


def restart_rolling(stage: Stage) -> None:
    """Row 17: workers are restarted in turn under load, warm and cold, and one is killed when it takes too long."""
    stage.staff((*(("prefork", 2), ("threads", 3)),))
    calls = 80
    stage.load(Mix(calls=calls, over_s=18.0, takes_s=LONG))
    for number, pause_s in enumerate(pauses(stage.rng, 5, (0.5, 2.0))):
        stage.pause(pause_s)
        worker = stage.workers[0]  # the oldest: the one that was started goes to the end
        signum = stage.rng.choice((signal.SIGTERM, signal.SIGQUIT))
        _restart(stage, worker, signum, 0.5 if number == 4 else 30.0)
    stage.drain()


def _restart(stage: Stage, worker: Worker, signum: signal.Signals, patience_s: float) -> None:
    """A cold shutdown takes its tasks along, and a stop time-out everything: those processes count as killed."""
    pids = worker.pids()
    takes_along = pids if signum == signal.SIGQUIT or patience_s < 1 else ()
    with stage.fault(f"{signum.name} to a {worker.pool} worker", killed=takes_along):
        worker.process.send(signum)
        with suppress(AssertionError):
            stage.wait_for_end(worker.process, patience_s)
        worker.process.kill()
    stage.replace(worker)


ROWS: Final = (
    Row(1, "SIGKILL to a pool child in the middle of a task", kill_children, Limits(recover_s=10.0)),
    Row(2, "SIGKILL to a whole worker in the middle of its tasks", kill_workers, Limits(recover_s=LEASE_S + 10)),
    Row(3, "a worker frozen while it fetches, then killed", freeze_while_fetching, Limits(), must_lose=True),
    Row(
        5,
        "a worker frozen for longer than its lease, then back",
        freeze_over_the_lease,
        Limits(recover_s=LEASE_S + 10, refused=1),
    ),
    Row(13, "tasks three times as long as the lease", outlast_the_lease, Limits(begun=1)),
    Row(
        17,
        "rolling restarts under load, warm, cold and killed",
        restart_rolling,
        Limits(recover_s=LEASE_S + 10, begun=6),
    ),
)
