"""Reads docker-compose.yml as Compose does, as far as ours goes: variables, anchors, commands, health checks, mounts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from ruamel.yaml import YAML

from support.sizes import ROOT

FILE: Final = ROOT / "docker-compose.yml"
DOCKERFILE: Final = ROOT / "deploy" / "docker" / "Dockerfile"
SECRETS: Final[Mapping[str, str]] = {
    "BEATLINE_REDIS_PASSWORD": "redis-hush",
    "BEATLINE_POSTGRES_PASSWORD": "postgres-hush",
    "BEATLINE_SECRET_KEYS": "k1:c2VjcmV0LWtleS1vZi1leGFjdGx5LTMyLWJ5dGVzLi4=",
}
"""A value for every variable without which the file means nothing."""

_VARIABLE: Final = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<plain>\w+)|\{(?P<name>\w+)(?:(?P<how>:-|:\?)(?P<text>[^}]*))?\})"
)
_DURATION: Final = re.compile(r"(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?")


class MissingVariableError(Exception):
    """A required variable has no value; the text is what the file says of it."""


@dataclass(frozen=True, slots=True)
class Check:
    """A health check; `argv` is what is run in the container."""

    argv: tuple[str, ...]
    interval_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Service:
    """A service; `mounts` maps places in the container to a folder of this machine or the name of a volume."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    check: Check | None
    ports: tuple[str, ...]
    mounts: Mapping[str, str]
    tmpfs: tuple[str, ...]
    grace_s: float
    raw: Mapping[str, Any]


def read(variables: Mapping[str, str], file: Path = FILE) -> dict[str, Service]:
    """The services by name. Raises MissingVariableError."""
    yaml: Any = YAML(typ="safe", pure=True)  # it leaves its stream untyped
    whole: dict[str, Any] = yaml.load(file.read_text("utf-8"))
    services = _interpolated(whole["services"], variables)
    return {name: _service(name, raw, variables, file.parent) for name, raw in services.items()}


def image_environment() -> dict[str, str]:
    """What the image's last stage sets, without PATH."""
    last = DOCKERFILE.read_text("utf-8").rpartition("\nFROM ")[2].replace("\\\n", " ")
    words = [word for line in last.splitlines() if line.startswith("ENV ") for word in shlex.split(line)[1:]]
    return {name: value for name, _, value in (word.partition("=") for word in words) if name != "PATH"}


def _service(name: str, raw: Mapping[str, Any], variables: Mapping[str, str], folder: Path) -> Service:
    check = raw.get("healthcheck")
    environment = {key: _passed_on(key, value, variables) for key, value in raw.get("environment", {}).items()}
    return Service(
        name=name,
        command=tuple(raw.get("command", ())),
        environment={key: value for key, value in environment.items() if value is not None},
        check=None if check is None else _check(check),
        ports=tuple(raw.get("ports", ())),
        mounts=dict(_mount(text, folder) for text in raw.get("volumes", ())),
        tmpfs=tuple(text.partition(":")[0] for text in raw.get("tmpfs", ())),
        grace_s=seconds(raw.get("stop_grace_period", "10s")),
        raw=raw,
    )


def _passed_on(name: str, value: str | None, variables: Mapping[str, str]) -> str | None:
    return variables.get(name) if value is None else value


def _check(raw: Mapping[str, Any]) -> Check:
    kind, *argv = raw["test"]
    command = ("sh", "-c", *argv) if kind == "CMD-SHELL" else tuple(argv)
    return Check(command, seconds(raw["interval"]), seconds(raw["timeout"]))


def _mount(text: str, folder: Path) -> tuple[str, str]:
    source, target = text.split(":")[:2]
    return target, str((folder / source).resolve()) if source.startswith((".", "/")) else source


def seconds(text: str) -> float:
    """A duration as Compose writes it: 90s, 1m30s."""
    match = _DURATION.fullmatch(text)
    assert match, text
    assert text
    return 60.0 * int(match["m"] or 0) + int(match["s"] or 0)


def _interpolated(node: Any, variables: Mapping[str, str]) -> Any:
    match node:
        case str():
            return _VARIABLE.sub(_value_of(variables), node)
        case list():
            return [_interpolated(item, variables) for item in cast("list[object]", node)]
        case dict():
            return {key: _interpolated(value, variables) for key, value in cast("dict[str, object]", node).items()}
        case _:
            return node


def _value_of(variables: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name = match["plain"] or match["name"]
        given = variables.get(name, "")
        if not given and match["how"] == ":?":
            raise MissingVariableError(f"{name} {match['text']}")
        return given or (match["text"] or "")

    return value
