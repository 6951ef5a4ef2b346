"""The demo from beginning to end: start everything, define, work, kill a worker, drain, post the report, count."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from beatline.clock import monotonic_s
from beatline.definitions import specs
from beatline.definitions import store as definitions
from beatline.embedded.console import Console
from beatline.embedded.folderlock import is_held
from beatline.embedded.folders import prepare_home
from beatline.embedded.plan import WorkerGroup, worker_groups
from beatline.embedded.supervisor import StopRequested, Supervisor
from beatline.families import kinds
from beatline.installation import Installation
from beatline.queues.command import Overrides
from beatline.queues.topology import TOPOLOGY
from beatline.schedules import store as schedules
from beatline.schedules.model import read_spec
from beatline.settings import Settings
from beatline_tasks.demo import evidence
from beatline_tasks.demo.circle import PostRound
from beatline_tasks.demo.circle_verdict import Circle
from beatline_tasks.demo.evidence import NAME
from beatline_tasks.demo.feed import Feed
from beatline_tasks.demo.feedlog import FeedLog, read_log
from beatline_tasks.demo.mail import MailServers, mail_servers
from beatline_tasks.demo.verdict import Evidence
from beatline_tasks.demo.weather import Day, all_days

WHO: Final = "demo"
QUEUE: Final = "collect"
LEASE_S: Final = 4.0
KILL_AT: Final = 0.35
"""The share of the feed that is out when a worker is killed."""
WORK_LIMIT_S: Final = 120.0
SETTLE_LIMIT_S: Final = 30.0
POST_LIMIT_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.1
_COUNT_EVERY_S: Final = 0.5
_STALE_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Killed:
    """A worker that was killed, and the run it was in the middle of."""

    worker: str
    pid: int
    run: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the demo is, a few times a second."""

    elapsed_s: float
    available: int
    stored: int
    days: int
    killed: Killed | None


class Demo:
    """One run of the demo on a data folder of its own. Use it from the main thread."""

    def __init__(
        self, folder: Path, *, shelf: Path, keep: bool, grow_s: float, seed: int, should_stop: Callable[[], bool]
    ) -> None:
        self.folder, self.shelf = folder, shelf
        self._with_mail = ExitStack()
        self._should_stop = should_stop
        self._days = all_days()
        self._log_path = folder / "feed.jsonl"
        self._feed = Feed(self._days, FeedLog(self._log_path), grow_s=grow_s, seed=seed)
        self._console = Console(folder / "logs", None)
        self._supervisor = Supervisor(
            own_settings(folder),
            self._console,
            groups=worker_groups_of(keep=keep),
            # A blank one hides what another program set; the folder has no .env either.
            env={"CELERY_RESULT_BACKEND": ""},
            flower=keep,
            api=keep,
            should_stop=should_stop,
        )
        self.feed_url = ""
        self.killed: Killed | None = None
        self.duration_s = 0.0
        self.post_s = 0.0

    @property
    def days(self) -> int:
        """How many days the feed has in all."""
        return len(self._days)

    @property
    def flower_url(self) -> str | None:
        """Where Flower is, if it runs."""
        return self._supervisor.flower_url

    @property
    def api_url(self) -> str | None:
        """Where the admin API is, if it runs."""
        return self._supervisor.api_url

    def start(self) -> None:
        """Start servers, Beat, the workers and the recorder, and serve feed and mail."""
        self._supervisor.start()
        self._installation = Installation(self._supervisor.settings)
        self.feed_url = self._feed.start()
        self.mail: MailServers = self._with_mail.enter_context(mail_servers())
        self._post = PostRound(self._installation, self.mail, self.shelf, self._days)

    def stop(self) -> None:
        """Stop everything that runs."""
        self._feed.stop()
        self._supervisor.stop()
        self._with_mail.close()
        self._console.close()

    def tick(self) -> None:
        """Look after the processes."""
        self._supervisor.tick()

    def work(self, show: Callable[[Progress], None]) -> None:
        """Define the source and its schedule, and watch until the feed is drained and the killed run has ended."""
        began_s = monotonic_s()
        self._define()
        stored, counted_s = 0, 0.0
        while monotonic_s() - began_s < WORK_LIMIT_S:
            self._pause()
            self._kill_on_the_way()
            if monotonic_s() - counted_s >= _COUNT_EVERY_S:
                counted_s = monotonic_s()
                with self._installation.engine.connect() as conn:
                    stored = evidence.stored_count(conn)
                    back = self.killed is not None and evidence.has_ended(conn, self.killed.run)
                if stored >= self.days and back:
                    break
            elapsed_s = monotonic_s() - began_s
            show(Progress(elapsed_s, self._feed.available(), stored, self.days, self.killed))
        self._settle()
        self.duration_s = monotonic_s() - began_s

    def post(self) -> None:
        """Have the figures made, reported, mailed and found again."""
        began_s = monotonic_s()
        self._post.begin()
        while monotonic_s() - began_s < POST_LIMIT_S and not self._post.is_over():
            self._pause()
        self._post.end()
        self._wait_for_ends()
        self.post_s = monotonic_s() - began_s

    def circle(self) -> Circle:
        """What there is to count of the post now."""
        return self._post.count()

    def evidence(self) -> tuple[Evidence, evidence.Ledger]:
        """What there is to count now."""
        engine = self._installation.engine
        ledger = evidence.read_ledger(engine)
        with engine.connect() as conn:
            stored = evidence.stored_days(conn)
            attempts = evidence.attempts_of(conn, self.killed.run) if self.killed else []
        found = Evidence(
            days=self._days,
            stored=stored,
            served=read_log(self._log_path),
            fired=ledger.fired,
            known=ledger.known,
            ended=ledger.ended,
            killed_run=self.killed.run if self.killed else None,
            killed_run_attempts=len(attempts),
        )
        return found, ledger

    def attempts_of_killed(self) -> list[tuple[int, str, str | None]]:
        """The attempts of the run whose worker was killed."""
        if self.killed is None:
            return []
        with self._installation.engine.connect() as conn:
            return evidence.attempts_of(conn, self.killed.run)

    def _define(self) -> None:
        ours = self._installation
        checked = specs.check(kinds()["source"], NAME, source_spec(self.feed_url))
        with ours.engine.begin() as conn:
            definitions.add(conn, "source", NAME, checked, lambda: ours.keyring, who=WHO)
            spec = read_spec(NAME, {"task": "collect.execute_task", "args": [NAME], "every": 1})
            schedules.add(conn, spec, who=WHO)

    def _kill_on_the_way(self) -> None:
        """Once part of the feed is out, kill the worker that is between two pages, while the feed holds the second."""
        if self.killed is not None or self._feed.available() < KILL_AT * self.days:
            return
        self._feed.hold_one()
        run = self._feed.held_run
        if run is None:
            return
        ours = self._installation
        worker = str(ours.redis.hget(ours.keys.run(run), "worker")).partition("@")[0]
        pid = self._supervisor.pid(worker)
        if pid is not None:
            os.killpg(pid, signal.SIGKILL)
            self.killed = Killed(worker, pid, run)
            self._feed.cut_off()

    def _settle(self) -> None:
        """Let no more slots come due, and wait until every run has its end."""
        with self._installation.engine.begin() as conn:
            schedules.pause(conn, NAME, who=WHO, reason="the feed is drained")
        self._wait_for_ends()

    def _wait_for_ends(self) -> None:
        until_s = monotonic_s() + SETTLE_LIMIT_S
        while monotonic_s() < until_s:
            self._pause()
            with self._installation.engine.connect() as conn:
                if evidence.open_runs(conn) == 0:
                    return

    def _pause(self) -> None:
        if self._should_stop():
            raise StopRequested
        self.tick()
        time.sleep(_LOOK_EVERY_S)


def own_settings(folder: Path) -> Settings:
    """Settings that owe nothing to the environment: the demo has servers, data and addresses of its own.

    The ports of Flower and the API are left open, so that free ones are taken.
    """
    defaults: dict[str, Any] = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
        if name not in ("flower_port", "api_port")
    }
    ours = {
        "home": folder,
        "lease_s": LEASE_S,
        "lease_renew_s": LEASE_S / 4,
        "allow_private_addresses": True,
        "task_modules": ("beatline_tasks.demo.jobs",),
    }
    return Settings.model_validate(defaults | ours)


def worker_groups_of(*, keep: bool) -> tuple[WorkerGroup, ...]:
    """Two workers for collect, and one process of threads for the other queues; one for each group where it stays."""
    (queue,) = (queue for queue in TOPOLOGY if queue.name == QUEUE)
    others = [other for other in TOPOLOGY if other is not queue]
    two = WorkerGroup(QUEUE, (queue,), Overrides(concurrency=2), processes=2)
    if keep:
        return (two, *worker_groups(others))
    return (two, WorkerGroup("rest", tuple(others), Overrides(pool="threads", concurrency=12)))


def source_spec(url: str) -> Mapping[str, Any]:
    """The source as a person would write it into a TOML file."""
    columns = dict.fromkeys(Day.__slots__, "number") | {"date": "date", "weather": "text"}
    return {
        "type": "http",
        "url": url,
        "format": "json",
        "records": "days",
        "pagination": {"type": "next", "path": "next"},
        "key": ["date"],
        "columns": columns,
        "cursor": {"field": "date", "param": "since", "ordered": True},
    }


@contextmanager
def own_folders(home: Path) -> Generator[tuple[Path, Path]]:
    """A fresh folder below the data folder, which is the working directory meanwhile, and one for the report's files.

    Both stay: the first has the logs, the second is what the demo made.
    """
    parent = prepare_home(home).resolve() / "demo"
    parent.mkdir(mode=0o700, exist_ok=True)
    _remove_stale(parent)
    shelf = parent / "report"
    shutil.rmtree(shelf, ignore_errors=True)
    shelf.mkdir(mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    before = Path.cwd()
    os.chdir(folder)  # away from a .env that is meant for something else
    try:
        yield folder, shelf
    finally:
        os.chdir(before)


def _remove_stale(parent: Path) -> None:
    """Remove what demos left behind that failed or were killed; their logs were there to look at for an hour."""
    for old in parent.glob("run-*"):
        if time.time() - old.stat().st_mtime > _STALE_S and not is_held(old / "up.lock"):
            shutil.rmtree(old, ignore_errors=True)
