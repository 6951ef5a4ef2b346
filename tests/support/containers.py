"""Services of docker-compose.yml as processes of this machine, since no container engine is at hand.

Of each service its `command`, `environment` and health check are taken as they stand, with the image's environment. Instead
of containers there are folders: /tmp is one a process, a volume one a project; redis and postgres are what stands in for
them, and a published port is a free one of loopback. What an engine adds (limits, users, read-only roots) is not seen here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from beatline.embedded.ports import free_port
from support.compose import Service, image_environment
from support.processes import Spawned, Spawner
from support.waiting import wait_until

MODULES: Final[Mapping[str, tuple[str, ...]]] = {"beatline": ("beatline.cli",), "celery": ("celery",), "python": ()}
"""How the programs of the image are called here, after `python -m`."""
HEALTHY_WITHIN_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Container:
    """One process of a service."""

    service: Service
    number: int
    spawned: Spawned
    environment: Mapping[str, str] = field(repr=False)
    check: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.service.name}-{self.number}"

    def health(self) -> tuple[bool, str]:
        """What its health check says now."""
        assert self.service.check is not None
        done = subprocess.run(
            self.check, env={**os.environ, **self.environment}, capture_output=True, text=True,
            check=False, timeout=self.service.check.timeout_s,
        )  # fmt: skip
        return done.returncode == 0, f"{self.name}: {done.stdout}{done.stderr}"

    def stop(self) -> int:
        """Stop it as `docker stop` does: SIGTERM, and its grace to end in."""
        self.spawned.send(signal.SIGTERM)
        return self.spawned.wait(self.service.grace_s)


class Project:
    """The services of one file on this machine. `servers` maps a service's host name to the URL that stands in for it."""

    def __init__(
        self, services: Mapping[str, Service], servers: Mapping[str, str], spawner: Spawner, folder: Path
    ) -> None:
        self.services = services
        self._servers, self._spawner, self._folder = servers, spawner, folder
        self._containers: list[Container] = []
        self.ports = {port.rpartition(":")[2]: free_port() for one in services.values() for port in one.ports}

    def up(self, name: str, number: int = 1) -> list[Container]:
        """Start processes of a service until there are `number`: `docker compose up -d --scale name=number`."""
        running = [one for one in self._containers if one.service.name == name and one.spawned.exit_code is None]
        made = [self._start(self.services[name]) for _ in range(number - len(running))]
        return [*running, *made]

    def run(self, name: str) -> int:
        """Start a service that does one thing, and wait for its exit code."""
        return self._start(self.services[name]).spawned.wait(60.0)

    def _start(self, service: Service) -> Container:
        number = sum(one.service.name == service.name for one in self._containers) + 1
        here = self._folder / f"{service.name}-{number}"
        (here / "app").mkdir(parents=True)
        places = {"/app": str(here / "app")}
        places |= {place: str(here / place.strip("/").replace("/", "-")) for place in service.tmpfs}
        places |= {place: self._source(source) for place, source in service.mounts.items()}
        environment = {
            name: self._localised(value, places)
            for name, value in {**image_environment(), **service.environment}.items()
        }
        program, *rest = [self._localised(word, places) for word in service.command]
        spawned = self._spawner.spawn(
            *MODULES[program], *rest, env=environment, cwd=here / "app", name=f"{service.name}-{number}"
        )
        check = [self._localised(word, places) for word in (service.check.argv if service.check else ())]
        if check and check[0] == "python":
            check[0] = sys.executable
        container = Container(service, number, spawned, environment, tuple(check))
        self._containers.append(container)
        return container

    def _source(self, source: str) -> str:
        folder = Path(source) if source.startswith("/") else self._folder / "volumes" / source
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def _localised(self, text: str, places: Mapping[str, str]) -> str:
        """The same text for this machine: stand-ins for servers, folders for places, free ports for published ones."""
        host = urlsplit(text).hostname if "://" in text else None
        if host is not None and host in self._servers:
            return self._servers[host]
        for place, folder in places.items():
            text = re.sub(rf"(?<![\w/]){re.escape(place)}(?=[/:]|$)", folder, text)
        for port, free in self.ports.items():
            text = re.sub(rf"(?<!\d){port}(?!\d)", str(free), text)
        return text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  # replaced, not bound


def wait_healthy(containers: Sequence[Container], timeout_s: float = HEALTHY_WITHIN_S) -> None:
    """Wait until the health check of each has said once that it is well."""
    waiting = list(containers)
    said: dict[str, str] = {}

    def all_well() -> bool:
        for one in tuple(waiting):
            if one.spawned.exit_code is not None:  # no AssertionError: it would be waited for
                raise RuntimeError(f"{one.name} has ended: {one.spawned.output()[-2000:]}")
            healthy, said[one.name] = one.health()
            if healthy:
                waiting.remove(one)
        assert not waiting, [said[one.name] for one in waiting]
        return True

    wait_until(all_well, timeout_s, every_s=0.5, what="every service is healthy")
