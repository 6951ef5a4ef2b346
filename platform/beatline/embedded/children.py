"""The platform's own processes as the supervisor runs them: Beat, workers, the recorder, the admin API, Flower."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from pydantic import SecretStr

from beatline.clock import monotonic_s
from beatline.embedded import folders, readiness, service
from beatline.embedded.plan import WorkerGroup
from beatline.embedded.process import Command, LineSink, Process
from beatline.embedded.service import StopStep
from beatline.settings import Settings
from beatline.settings_sources import variable_of

CELERY: Final = ("-m", "celery", "-q")
"""Quiet is without the banner, which is no log line."""
APP: Final = "beatline.embedded.announced"

# Celery takes these before any configuration; what another program left in them must not part our processes.
BROKER_NAMES: Final = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "BROKER_URL")
RESULT_NAMES: Final = ("CELERY_RESULT_BACKEND", "RESULT_BACKEND")

# All has to be over within ten seconds: workers, then the recorder, then the servers.
_POLITE: Final = (StopStep(signal.SIGTERM, 1.8),)
# QUIT gives tasks that still run back to their queues, for which Celery takes three seconds.
_API: Final = (StopStep(signal.SIGTERM, 4.0),)
_WORKER: Final = (StopStep(signal.SIGTERM, 2.5), StopStep(signal.SIGQUIT, 3.3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A Python process of the platform. Settings and passwords reach it by its environment."""

    name: str
    kind: str
    what: str
    arguments: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    home: Path
    answers: Callable[[Process], bool] | None = None
    stop_steps: Sequence[StopStep] = _POLITE
    ready_within_s: float = 60.0

    def spawn(self, on_line: LineSink | None = None) -> Process:
        """Start it without waiting for it."""
        with folders.explained(self.home):
            readiness.forget(self.home, self.name)
        # KILL: no servers of ours are left then, so there is nobody to say good-bye to, and nothing may stay.
        command = Command(argv=[sys.executable, *self.arguments], env=self.env, death_signal="KILL")
        return Process(command, on_line)

    def is_ready(self, process: Process) -> bool:
        """Whether it said that it is ready, or answers."""
        if process.exit_code() is not None:
            return False
        return self.answers(process) if self.answers else readiness.has_announced(self.home, self.name)

    def why_it_ended(self, process: Process) -> str:
        """Its exit code and last words."""
        return f"{self.name} {service.how_it_ended(process)}"


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of a child that shall see exactly these settings, and everything else as we do."""
    variables = dict(os.environ)
    for name in settings.model_fields_set | {"home"}:
        text = _as_text(getattr(settings, name))
        if text is None:
            variables.pop(variable_of(name), None)
        else:
            variables[variable_of(name)] = text
    for url, names in ((settings.redis_url, BROKER_NAMES), (settings.result_url, RESULT_NAMES)):
        variables |= dict.fromkeys((name for name in names if variables.get(name)), url)
    variables["PYTHONUNBUFFERED"] = "1"
    return variables


def beat(settings: Settings, env: Mapping[str, str]) -> Child:
    """The process that decides what is due."""
    arguments = (*CELERY, "-A", APP, "beat")
    return Child(name="beat", kind="beat", what="schedules", arguments=arguments, env=env, home=settings.home)


def workers(settings: Settings, env: Mapping[str, str], groups: Sequence[WorkerGroup]) -> list[Child]:
    """The processes that run tasks, one or more for each group of queues."""
    return [
        Child(
            name=name,
            kind="worker",
            what=", ".join(queue.name for queue in group.queues),
            arguments=(*CELERY, *group.arguments(APP, name)),
            env=env,
            home=settings.home,
            stop_steps=_WORKER,
        )
        for group in groups
        for name in _names(group)
    ]


def recorder(settings: Settings, env: Mapping[str, str]) -> Child:
    """The process that writes the history and puts lost runs back."""
    return Child(
        name="recorder",
        kind="recorder",
        what="history",
        arguments=("-m", "beatline.cli", "recorder"),
        env=env,
        home=settings.home,
        answers=_reads_events(settings.redis_url),
    )


def flower(settings: Settings, env: Mapping[str, str], port: int) -> Child:
    """Celery's live view. Its pages of health and metrics know no password, so it stays on the address of the settings."""
    host = settings.flower_host
    arguments = (*CELERY, "-A", "beatline", "flower", f"--address={host}", f"--port={port}")
    return Child(
        name="flower",
        kind="flower",
        what=url_of(host, port),
        arguments=arguments,
        env=env,
        home=settings.home,
    )


def api(settings: Settings, env: Mapping[str, str], port: int) -> Child:
    """The admin API, for who has a token."""
    host = settings.api_host
    return Child(
        name="api",
        kind="api",
        what=url_of(host, port),
        arguments=("-m", "beatline.cli", "api", f"--port={port}", "--lazy"),
        env=env,
        home=settings.home,
        stop_steps=_API,
    )


def url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds a server on that address."""
    address = reachable(host)
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/"


def reachable(host: str) -> str:
    """The address at which this machine finds a server that listens on `host`."""
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104  # compared, not bound


def _reads_events(redis_url: str) -> Callable[[Process], bool]:
    """Asks Redis whether a client younger than the process reads a stream as one of a group: so does the recorder."""
    from redis.exceptions import RedisError

    from beatline.installation import connect_redis

    client = connect_redis(redis_url)

    def reads(process: Process) -> bool:
        oldest_s = monotonic_s() - process.since_s + 1.0
        try:
            clients = cast("list[dict[str, str]]", client.client_list())
        except RedisError:
            return False
        return any(one.get("cmd") == "xreadgroup" and float(one.get("age", 0)) <= oldest_s for one in clients)

    return reads


def _names(group: WorkerGroup) -> list[str]:
    if group.processes == 1:
        return [group.name]
    return [f"{group.name}-{number}" for number in range(1, group.processes + 1)]


def _as_text(value: object) -> str | None:
    match value:
        case None:
            return None
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # a tuple of anything prints
        case _:
            return str(value)
