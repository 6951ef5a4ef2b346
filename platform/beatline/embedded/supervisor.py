"""`beatline up`: starts everything in order, keeps it running, and stops it within ten seconds.

No process library does this: what they lack are servers' data folders, a health check before the next start, and
children that end when we are killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from beatline.embedded import children, folders, pages, runfile, service, table
from beatline.embedded.console import Console
from beatline.embedded.folderlock import FolderLock
from beatline.embedded.member import Member
from beatline.embedded.migration import migrate
from beatline.embedded.pages import Page
from beatline.embedded.plan import WorkerGroup, worker_groups
from beatline.embedded.postgres import Postgres
from beatline.embedded.process import Process
from beatline.embedded.runfile import ProcessEntry, RunningUp
from beatline.embedded.server_checks import place, require_servers
from beatline.embedded.service import Runnable
from beatline.embedded.valkey import Valkey
from beatline.errors import ServiceError
from beatline.queues.routing import known_queues
from beatline.secrets import ensure_keys
from beatline.settings import Settings

PORTS_TRIED: Final = 3
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "::1")


class StopRequested(BaseException):
    """Someone asked to stop while everything was still starting."""


class Supervisor:
    """Everything that `beatline up` runs. Use it from the main thread: children end with the thread that starts them.

    `groups` are the workers, by default one set for every queue; `env` is added to the children's environment.
    `should_stop` is asked while it waits for a start.
    """

    def __init__(
        self,
        settings: Settings,
        console: Console,
        *,
        groups: Sequence[WorkerGroup] | None = None,
        env: Mapping[str, str] | None = None,
        flower: bool = True,
        api: bool = True,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings = settings
        self._console = console
        self._groups = groups
        self._env = dict(env or {})
        self._with_flower = flower
        self._with_api = api
        self._should_stop = should_stop
        self._members: list[Member] = []
        self._given: list[ProcessEntry] = []
        self._lock: FolderLock | None = None

    @property
    def flower_url(self) -> str | None:
        """Where Flower is, once start() has returned."""
        return self._url("flower")

    @property
    def api_url(self) -> str | None:
        """Where the admin API is, once start() has returned."""
        return self._url("api")

    def start(self) -> None:
        """Start everything; it is healthy on return, and `settings` names the servers.

        Raises ServiceError or another BeatlineError in one sentence, or StopRequested, with nothing left running.
        """
        home = folders.prepare_home(self.settings.home)
        self._lock = runfile.hold(home)
        try:
            for page in self._pages(os.environ):
                page.port.choose()  # a taken one is said before anything is started
            self._start_servers()
            if self.settings.secret_keys is None:
                with folders.explained(home):
                    ensure_keys(home)
            env = children.environment_of(self.settings) | self._env
            migrate(env, self._console.sink("migrate"), self._pause)
            self._start_platform(env)
        except BaseException:
            self.stop()
            raise

    def tick(self) -> None:
        """Look after every process once: start again what died. Call it a few times a second."""
        changed = [member.look() for member in self._members]
        if any(changed):
            try:
                self._publish()
            except ServiceError as exc:  # a full disk hides the news and stops nothing
                self._console.say(str(exc))

    def processes(self) -> list[ProcessEntry]:
        """What runs where: ourselves, servers that are given, and everything that was started."""
        me = os.getpid()
        ourselves = ProcessEntry(
            name="up",
            kind=table.SUPERVISOR,
            what=str(self.settings.home),
            pid=me,
            started=table.started(me),
            state="ready",
        )
        return [ourselves, *self._given, *(member.entry() for member in self._members)]

    def pid(self, name: str) -> int | None:
        """The process id of a member; None while it is down. Raises KeyError for a name that nothing has."""
        return {member.name: member.process.pid if member.process else None for member in self._members}[name]

    def stop(self) -> None:
        """Stop everything, the servers last, within ten seconds. Safe to call twice."""
        # The recorder after those whose last events it writes down.
        for kinds in (("beat", "worker", "flower", "api"), ("recorder",), ("redis", "postgres")):
            chosen = [member for member in self._members if member.runnable.kind in kinds]
            service.stop([(member.runnable, member.process) for member in chosen if member.process])
        self._members.clear()
        if self._lock is not None:
            runfile.withdraw(self.settings.home)
            self._lock.release()
            self._lock = None

    def _start_servers(self) -> None:
        home = self.settings.home
        given = {"redis": bool(self.settings.redis_url), "postgres": bool(self.settings.database_url)}
        urls: dict[str, str] = {}
        if not given["redis"]:
            valkey = Valkey(home / "valkey", self.settings.embedded_redis_port)
            self._start([valkey])
            urls["redis_url"] = valkey.url
        if not given["postgres"]:
            postgres = Postgres(home / "postgres", self.settings.embedded_postgres_port)
            self._start([postgres])
            urls["database_url"] = postgres.url
        self.settings = self.settings.replaced(**urls)
        for warning in require_servers(self.settings, redis=given["redis"], database=given["postgres"]):
            self._console.say(f"Warning: {warning}")
        self._given = _given_entries(self.settings, given)

    def _start_platform(self, env: Mapping[str, str]) -> None:
        groups = self._groups
        if groups is None:
            groups = worker_groups(known_queues(self.settings.queues).values())
        self._start([children.beat(self.settings, env)])
        self._start(children.workers(self.settings, env, groups))
        self._start([children.recorder(self.settings, env)])
        if self._with_flower and self.settings.flower_host not in LOOPBACK_HOSTS:
            self._console.say(f"Warning: Flower on {self.settings.flower_host} lets anybody read and stop tasks.")
        for page in self._pages(env):
            self._start_page(page)

    def _pages(self, env: Mapping[str, str]) -> list[Page]:
        chosen = ((pages.flower, self._with_flower), (pages.api, self._with_api))
        return [page(self.settings, env) for page, is_wanted in chosen if is_wanted]

    def _start_page(self, page: Page) -> None:
        """As any other; on another port if a program was faster between our look and its start."""
        for tries_left in range(PORTS_TRIED - 1, -1, -1):
            try:
                self._start([page])
            except ServiceError:
                if not (tries_left and page.port.is_lost):
                    raise
                failed = self._members.pop()
                if failed.process:
                    service.stop([(page, failed.process)])
            else:
                return

    def _start(self, runnables: Sequence[Runnable]) -> None:
        """Start some side by side, and wait until all of them are ready."""
        started: list[tuple[Member, Process]] = []
        for runnable in runnables:
            member = Member(runnable, self._console)
            self._members.append(member)
            started.append((member, member.spawn()))
        for member, process in started:
            service.wait_ready(member.runnable, process, self._pause)
            member.became_ready()
        self._publish()

    def _pause(self) -> None:
        if self._should_stop():
            raise StopRequested
        time.sleep(service.POLL_S)

    def _url(self, kind: str) -> str | None:
        return next((member.runnable.what for member in self._members if member.runnable.kind == kind), None)

    def _publish(self) -> None:
        if not self.settings.redis_url or not self.settings.database_url:
            return
        running = RunningUp(
            pid=os.getpid(),
            redis_url=self.settings.redis_url,
            database_url=self.settings.database_url,
            flower_url=self.flower_url,
            api_url=self.api_url,
            processes=tuple(self.processes()),
        )
        with folders.explained(self.settings.home):
            runfile.publish(self.settings.home, running)


def _given_entries(settings: Settings, given: Mapping[str, bool]) -> list[ProcessEntry]:
    """The servers that are configured and not ours, for the table."""
    places = {"redis": place(settings.redis_url, 6379), "postgres": place(settings.database_url, 5432)}
    return [
        ProcessEntry(name=kind, kind=kind, what=where, pid=None, started=None, state="given")
        for kind, where in places.items()
        if given[kind]
    ]
