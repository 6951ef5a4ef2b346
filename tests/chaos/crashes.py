"""Row 12: a process dies at every step between accepting a run and having its end in PostgreSQL, at each in turn.

Each place has a queue of its own, so that a run meets the place it was sent for, and no other.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Final, TypeAlias

from beatline.clock import utc_now, utc_today
from beatline.engine.publish import message_of
from beatline.installation import Installation
from beatline.ledger.store import NewRun, insert_runs
from chaos.checker import Limits
from chaos.load import intend
from chaos.places import PLACES, Place
from chaos.plan import Item
from chaos.row import Row
from chaos.sides import CRASH_QUEUES, Ours
from chaos.stage import Stage, Worker
from support.processes import Spawned

FAILPOINT: Final = "BEATLINE_TEST_FAILPOINT"
DIES_S: Final = 45.0
SIDE_BY_SIDE: Final = 5
SERVED: Final = CRASH_QUEUES[:-1]
UNSERVED: Final = CRASH_QUEUES[-1]
"""Nobody but the worker that is to die takes from this one."""
Armed: TypeAlias = tuple[Place, Worker, frozenset[int]]
"""A worker that will die at a place, and its processes."""


def crash_everywhere(stage: Stage) -> None:
    """Crash at each place, and let all of it come to its end."""
    places = list(zip(PLACES, SERVED, strict=False))
    stage.rng.shuffle(places)
    by = {who: [one for one in places if one[0].who == who] for who in ("worker", "sender", "recorder")}
    with ExitStack() as unhealed:  # nobody serves these queues before the last has died
        for group in _batches(by["worker"]):
            _crash_workers(stage, group, unhealed)
        _crash_senders(stage, by["sender"])
        _staff(stage)
    with ExitStack() as unhealed:  # each takes the place of the one that died before, and dies as well
        _retire_recorder(_ours(stage))
        for place, queue in by["recorder"]:
            _crash_recorder(stage, place, queue, unhealed)
        _ours(stage).recorder_again({})
    stage.drain(90.0)


def _batches(places: Sequence[tuple[Place, str]]) -> Iterator[Sequence[tuple[Place, str]]]:
    rest = iter(places)
    while batch := list(islice(rest, SIDE_BY_SIDE)):
        yield batch


def _staff(stage: Stage) -> None:
    started = [stage.hire(pool, 2, queues=SERVED, ready=False) for pool in ("prefork", "threads")]
    for worker in started:
        worker.process.wait_for(r"\bready\b", 90)


def _crash_workers(stage: Stage, group: Sequence[tuple[Place, str]], unhealed: ExitStack) -> None:
    """Workers side by side, each with a place of its own to die at."""
    hired: list[tuple[Place, Worker]] = []
    for place, queue in group:
        # Where the body itself gets to the place, threads: in a pool's child it would kill a child, which row 1 does.
        in_body = place.name.startswith("task.") or place.name == "strict.next_committed"
        pool = "threads" if in_body else stage.rng.choice(("prefork", "threads"))
        worker = stage.hire(pool, 1, {FAILPOINT: place.name}, queues=(queue,), ready=False)
        hired.append((place, worker))
    for _, worker in hired:
        worker.process.wait_for(r"\bready\b", 90)
    armed = [(place, worker, worker.pids()) for place, worker in hired]
    for place, queue in group:
        stage.ask(place.shape, 0.2, strict=place.strict, queue=queue)
    while armed:  # whichever dies first: when it died is what the checker goes by
        place, worker, pids = stage.wait(lambda: _first_ended(armed), DIES_S, f"one of {len(armed)} workers dies")
        unhealed.enter_context(stage.fault(f"a {worker.pool} worker died at {place.name}", killed=pids))
        _must_have_been_killed(worker.process, place)
        worker.process.kill()
        stage.workers.remove(worker)
        armed.remove((place, worker, pids))


def _first_ended(armed: Sequence[Armed]) -> Armed | None:
    return next((one for one in armed if one[1].process.exit_code is not None), None)


def _crash_senders(stage: Stage, places: Sequence[tuple[Place, str]]) -> None:
    armed = [
        (place, _ours(stage).sender(stage.key(), queue, place.how, {FAILPOINT: place.name})) for place, queue in places
    ]
    for place, sender in armed:
        _dies(stage, sender, place)


def _crash_recorder(stage: Stage, place: Place, queue: str, unhealed: ExitStack) -> None:
    armed = _ours(stage).recorder_again({FAILPOINT: place.name})
    match place.needs:
        case "run":
            stage.ask(takes_s=0.05, queue=queue)
        case "lost worker":
            _lose_worker(stage, queue)
        case "lost message":
            with ExitStack() as at_once:
                _crash_workers(stage, [(Place("worker.fetched", "worker"), UNSERVED)], at_once)
            stage.hire("threads", 1, queues=(UNSERVED,))
        case "accepted only":
            _accept_only(stage, queue)
        case "delayed":
            stage.ask(queue=queue, countdown_s=stage.rng.uniform(4.0, 5.0))
    _dies(stage, armed, place)
    unhealed.enter_context(stage.fault(f"a recorder died at {place.name}"))


def _retire_recorder(ours: Ours) -> None:
    if ours.recorder is not None and ours.recorder.exit_code is None:
        with suppress(ProcessLookupError):
            ours.recorder.send(signal.SIGTERM)
        ours.recorder.wait()


def _lose_worker(stage: Stage, queue: str) -> None:
    """A worker is killed in the middle of a task."""
    key = stage.ask(takes_s=1.5, queue=queue)
    holder = stage.wait(lambda: _holder(stage, key), 30, "a worker is in the middle of the task")
    stage.kill(holder, f"SIGKILL to a {holder.pool} worker")
    stage.workers.remove(holder)
    stage.hire(holder.pool, 2, queues=SERVED)


def _holder(stage: Stage, key: str) -> Worker | None:
    return next((one for one in stage.workers if any(run.key == key for run in stage.running(one))), None)


def _accept_only(stage: Stage, queue: str) -> None:
    """A run whose row is committed and whose message is never published: its sender died in between, as Beat may."""
    ours, key = _ours(stage), stage.key()
    intend(stage.journal, Item((key,), "single", 0.05, 0.0, "submit", queue=queue))
    message = message_of(
        ours.app, "chaos.work", (0.05, 0, 0.0), {}, run_id=key, day=utc_today().isoformat(), queue=queue
    )
    run = NewRun(run_id=key, day=utc_today(), task=message.task, queue=queue, message=message.payload,
                 accepted_at=utc_now())  # fmt: skip
    installation = Installation(ours.settings)
    with installation.engine.begin() as conn:
        insert_runs(conn, [run], installation.keyring)
    stage.journal.write("outcome", key, outcome="ok")


def _dies(stage: Stage, process: Spawned, place: Place) -> None:
    """Wait for it. One that ends otherwise, or does not end, never was at the place: then nothing is proved."""
    stage.wait_for_end(process, DIES_S)
    _must_have_been_killed(process, place)


def _must_have_been_killed(process: Spawned, place: Place) -> None:
    if process.exit_code != -signal.SIGKILL:
        raise AssertionError(f"{place.name} was not reached: its process ended with {process.exit_code}")


def _ours(stage: Stage) -> Ours:
    assert stage.ours is not None
    return stage.ours


ROWS: Final = (
    Row(12, "a crash at every step from accept to commit", crash_everywhere, Limits(recover_s=45.0), control=False),
)
