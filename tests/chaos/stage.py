"""One trial: a system with its workers, a load, the faults that are done to it, and what is seen once all is healed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil

from beatline.clock import monotonic_s
from chaos.history import Execution, History, read
from chaos.journal import Journal
from chaos.load import Load, SenderHangsError, ask
from chaos.plan import Item, Mix, Shape, load
from chaos.proxy import Proxy
from chaos.sides import QUEUE, Ours, Side
from support.processes import Spawned, Spawner
from support.servers import Server
from support.waiting import wait_until

ASK_EVERY_S: Final = 0.4
POOLS: Final = (("prefork", 2), ("threads", 3))


@dataclass(slots=True)
class Worker:
    """A running worker, and the pool it was started with."""

    process: Spawned
    pool: str
    concurrency: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def pids(self) -> frozenset[int]:
        """Its own process id, and those of its children."""
        with suppress(psutil.NoSuchProcess):
            return frozenset({self.pid, *(one.pid for one in psutil.Process(self.pid).children(recursive=True))})
        return frozenset({self.pid})


@dataclass(slots=True)
class Stage:
    """Everything a row needs to try a system once. Faults are written down before they are done."""

    name: str
    side: Side
    rng: Random
    journal: Journal
    redis: Server
    postgres: Server
    redis_folder: Path
    client: Any
    spawner: Spawner
    proxy: Proxy | None = None
    full: bool = False
    workers: list[Worker] = field(default_factory=list[Worker])
    loads: list[Load] = field(default_factory=list[Load])
    ended: int = 0
    """How many workers have ended by themselves."""
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def ours(self) -> Ours | None:
        """Our side, where it is ours."""
        return self.side if isinstance(self.side, Ours) else None

    def staff(self, pools: Sequence[tuple[str, int]] = POOLS) -> None:
        """Start workers side by side, and wait until each is ready."""
        started = [self.hire(pool, concurrency, ready=False) for pool, concurrency in pools]
        for worker in started:
            worker.process.wait_for(r"\bready\b", 90)

    def hire(
        self,
        pool: str,
        concurrency: int,
        env: Mapping[str, str] | None = None,
        *,
        queues: Sequence[str] = (QUEUE,),
        ready: bool = True,
    ) -> Worker:
        """Start one worker."""
        worker = Worker(self.side.worker(pool, concurrency, env or {}, queues, ready=ready), pool, concurrency)
        self.workers.append(worker)
        return worker

    def replace(self, worker: Worker) -> Worker:
        """Start another in the place of one that is gone."""
        self.workers.remove(worker)
        return self.hire(worker.pool, worker.concurrency)

    def load(self, mix: Mix) -> Load:
        """Begin to ask for runs."""
        started = Load(self.side, self.journal, load(self.rng, f"{self.name}-l{next(self._numbers)}", mix))
        self.loads.append(started)
        return started

    def later(self, items: Sequence[Item]) -> Load:
        """Begin to ask for these."""
        started = Load(self.side, self.journal, items)
        self.loads.append(started)
        return started

    def ask(self, shape: Shape = "single", takes_s: float = 0.05, *, past_proxy: bool = False, **options: Any) -> str:
        """Ask for one item now; the key of its first run."""
        key = self.key()
        keys = (f"{key}a", f"{key}b") if shape == "chain" else (key,)
        ask(self.side, self.journal, Item(keys, shape, takes_s, 0.0, **options), past_proxy=past_proxy)
        return keys[0]

    def key(self) -> str:
        """A key that was not used yet."""
        return f"{self.name}-q{next(self._numbers)}"

    @contextmanager
    def fault(
        self,
        what: str,
        *,
        killed: Collection[int] = (),
        frozen: Collection[int] = (),
        lost_data: bool = False,
        behind: int | None = None,
    ) -> Generator[None]:
        """Do a fault inside; when this is left, it is healed."""
        number = str(next(self._numbers))
        said = {"what": what, "killed": sorted(killed), "frozen": sorted(frozen)}
        self.journal.write("fault", number, **said, lost_data=lost_data, behind=behind)
        sys.stderr.write(f"      {what}\n")
        try:
            yield
        finally:
            self.journal.write("healed", number)

    def kill(self, worker: Worker, what: str) -> None:
        """SIGKILL to a worker and all its children."""
        with self.fault(what, killed=worker.pids()):
            worker.process.kill()

    def signal_group(self, worker: Worker, signum: signal.Signals) -> None:
        """A signal to a worker and all its children."""
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signum)

    def await_senders(self) -> None:
        """Wait until everything was asked for. Stock senders may hang; that is theirs. Raises SenderHangsError for ours."""
        for one in self.loads:
            try:
                one.finish()
            except SenderHangsError as exc:
                if self.ours is not None:
                    raise
                sys.stderr.write(f"      {exc}\n")

    def _supervise(self) -> None:
        """Start again what has ended by itself, as every operator has it done."""
        for worker in [one for one in self.workers if one.process.exit_code is not None]:
            sys.stderr.write(f"      a {worker.pool} worker has ended with {worker.process.exit_code}; starts again\n")
            self.ended += 1
            self.replace(worker)

    def pause(self, seconds: float) -> None:
        """Let the system work."""
        time.sleep(seconds)

    def history(self, *, final: bool = False) -> History:
        """What has happened so far; with `final` also what is left of it."""
        standings = self.side.standings() if final else None
        residue = self.side.residue() if final else ()
        waiting = self.side.waiting() if final else frozenset[str]()
        lines, effects = self.journal.lines(), self.journal.effects()
        return read(lines, effects, standings=standings, residue=residue, waiting=waiting)

    def running(self, worker: Worker | None = None) -> list[Execution]:
        """Executions that have begun and not ended, in processes that live; those of one worker, or all."""
        found = self.history().executions
        pids = worker.pids() if worker is not None else frozenset(pid for one in self.workers for pid in one.pids())
        return [one for one in found if one.done_at is None and one.pids & pids and _lives(one)]

    def busy(self, worker: Worker) -> list[Execution]:
        """What a worker executes, as soon as it executes something; where the load is over, more is asked for."""
        asked_s = [0.0]

        def look() -> list[Execution]:
            found = self.running(worker)
            if not found and all(one.over for one in self.loads) and monotonic_s() - asked_s[0] > ASK_EVERY_S:
                asked_s[0] = monotonic_s()
                self.ask(takes_s=0.8)
            return found

        found: list[Execution] = self.wait(look, 45, f"a {worker.pool} worker is busy")
        return found

    def wait_for_done(self, keys: AbstractSet[str], timeout_s: float) -> None:
        """Wait until each was done once."""
        self.wait(lambda: keys <= self.history().done.keys(), timeout_s, f"{', '.join(sorted(keys))} done")

    def wait_for_end(self, process: Spawned, timeout_s: float) -> None:
        """Wait until a process has ended by itself."""
        self.wait(lambda: process.exit_code is not None, timeout_s, f"{process.name} ends")

    def wait(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """What it returned when it first was true. Raises AssertionError."""
        return wait_until(condition, timeout_s, every_s=0.05, what=f"{self.name}: {what}")

    def drain(self, timeout_s: float | None = None) -> float:
        """Give the system the time to finish; how long it took. What is not over then, the checker will say."""
        self.await_senders()
        began_s = monotonic_s()
        why = "not looked yet"
        calm = 0
        while monotonic_s() - began_s < (timeout_s or self.side.drain_s):
            self._supervise()
            try:
                why = self.side.at_rest(self.running)
            except Exception as exc:  # noqa: BLE001  # a server that is still coming back
                why = f"{type(exc).__name__}: {exc}"
            calm = 0 if why else calm + 1
            if calm == 3:
                return monotonic_s() - began_s
            time.sleep(0.15)
        sys.stderr.write(f"      not at rest after {timeout_s or self.side.drain_s:.0f} s: {why}\n")
        return monotonic_s() - began_s


def _lives(one: Execution) -> bool:
    for pid in one.pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                continue
        return False
    return True
