"""The processes that people open in a browser, Flower and the admin API: each on its own port or on a free one."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil

from beatline.embedded import children, ports
from beatline.embedded.children import Child
from beatline.embedded.process import LineSink, Process
from beatline.embedded.service import StopStep
from beatline.settings import Settings
from beatline.settings_sources import variable_of

HEALTH_S: Final = 1.0


@dataclass(slots=True)
class Port:
    """The port of a setting; another, chosen anew at each start, if it is only the default and is taken."""

    service: str
    variable: str
    wanted: int
    is_fixed: bool
    number: int = field(init=False)

    def __post_init__(self) -> None:
        self.number = self.wanted

    def choose(self) -> int:
        """The port to listen on now: the one of last time if it is still free. Raises ServiceError if it is fixed."""
        if not ports.is_free(self.number):
            if self.is_fixed:
                raise ports.taken(self.service, self.variable, self.wanted)
            self.number = self.wanted if ports.is_free(self.wanted) else ports.free_port()
        return self.number

    @property
    def is_lost(self) -> bool:
        """Whether another program was faster, and another port would do."""
        return not self.is_fixed and not ports.is_free(self.number)


class Page:
    """A child that serves pages. It is ready when it answers itself: another copy may answer on the port it wanted."""

    def __init__(self, host: str, port: Port, path: str, child_on: Callable[[int], Child]) -> None:
        self.port = port
        self._host = host
        self._path = path
        self._child_on = child_on
        self._child = child_on(port.number)

    @property
    def name(self) -> str:
        """As people and log files call it."""
        return self._child.name

    @property
    def kind(self) -> str:
        """What it is: flower or api."""
        return self._child.kind

    @property
    def what(self) -> str:
        """Its URL."""
        return self._child.what

    @property
    def ready_within_s(self) -> float:
        """How long it may take to answer."""
        return self._child.ready_within_s

    @property
    def stop_steps(self) -> Sequence[StopStep]:
        """How to end it."""
        return self._child.stop_steps

    def spawn(self, on_line: LineSink | None = None) -> Process:
        """Start it on its port, without waiting. Raises ServiceError if the port is fixed and taken."""
        self._child = self._child_on(self.port.choose())
        return self._child.spawn(on_line)

    def is_ready(self, process: Process) -> bool:
        """Whether it answers on its port, and no other program does."""
        return (
            process.exit_code() is None
            and _is_healthy(children.reachable(self._host), self.port.number, self._path)
            and self.port.number in _listened_on(process.pid)
        )

    def why_it_ended(self, process: Process) -> str:
        """Its exit code and last words."""
        return self._child.why_it_ended(process)


def flower(settings: Settings, env: Mapping[str, str]) -> Page:
    """Celery's live view."""
    port = _port(settings, "flower_port", "Flower")
    return Page(settings.flower_host, port, "/healthcheck", lambda number: children.flower(settings, env, number))


def api(settings: Settings, env: Mapping[str, str]) -> Page:
    """The admin API."""
    port = _port(settings, "api_port", "the admin API")
    return Page(settings.api_host, port, "/healthz", lambda number: children.api(settings, env, number))


def _port(settings: Settings, setting: str, service: str) -> Port:
    return Port(service, variable_of(setting), getattr(settings, setting), setting in settings.model_fields_set)


def _listened_on(pid: int) -> set[int]:
    try:
        connections = psutil.Process(pid).net_connections("inet")
    except psutil.Error:
        return set()
    return {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}


def _is_healthy(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=HEALTH_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
