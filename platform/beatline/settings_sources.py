"""Where settings come from: the environment, `.env.<environment>`, `.env`; the nearer layer and the fuller name win.

A setting is looked for under its own name (`BEATLINE_REDIS_URL`) in every layer, then under each of its usual names. So
what is written for Beatline always goes before what another program's variables happen to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

from pydantic_settings import BaseSettings, DotEnvSettingsSource

PREFIX: Final = "BEATLINE_"

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "redis_url": ("CELERY_BROKER_URL", "REDIS_URL"),
    "result_url": ("CELERY_RESULT_BACKEND",),
    "database_url": ("DATABASE_URL",),
}
"""Names under which other programs know the same thing, in the order in which they are asked."""

COMPOSE_NAMES: Final = tuple(
    f"{PREFIX}{name}"
    for name in (
        "REDIS_PASSWORD", "POSTGRES_PASSWORD", "IMAGE", "REDIS_IMAGE", "POSTGRES_IMAGE", "REDIS_MAXMEMORY", "BIND",
        "TASKS_FOLDER",
    )
)  # fmt: skip
"""What docker-compose.yml reads from the same .env, and no process of ours."""

REDIS_PARTS: Final = ("REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD")
"""The last resort for redis_url; REDIS_HOST alone makes them count."""


class Layer(NamedTuple):
    """One place that holds variables; `label` completes "from …" for people."""

    label: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Given:
    """A value that was given, the variable that gave it, and the place of that variable."""

    value: object
    variable: str
    place: str

    @property
    def origin(self) -> str:
        """Where the value comes from, for people."""
        return f"{self.variable} ({self.place})"


def variable_of(field: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{field.upper()}"


def read_layers(
    settings: type[BaseSettings], environ: Mapping[str, str], folder: Path, problems: list[str]
) -> list[Layer]:
    """The environment and the files of `folder`, nearest first; what cannot be read is added to `problems`."""
    nearest = Layer("environment", {k: v for k, v in environ.items() if v.strip()})
    base = _read_file(settings, folder / ".env", problems)
    name = nearest.values.get(f"{PREFIX}ENV") or base.values.get(f"{PREFIX}ENV")
    if name is None or not _is_plain(name):
        return [nearest, base]
    return [nearest, _read_file(settings, folder / f".env.{name.strip()}", problems), base]


def find(layers: Sequence[Layer], fields: Sequence[str], problems: list[str]) -> dict[str, Given]:
    """What the layers give for these fields; a field that nothing names is left out."""
    found: dict[str, Given] = {}
    for field in fields:
        for variable in (variable_of(field), *USUAL_NAMES.get(field, ())):
            given = _look_up(layers, variable)
            if given is not None:
                found[field] = given
                break
    if "redis_url" in fields and "redis_url" not in found:
        assembled = _redis_from_parts(layers, problems)
        if assembled is not None:
            found["redis_url"] = assembled
    return found


def strangers(layers: Sequence[Layer], fields: Sequence[str]) -> list[tuple[str, str]]:
    """Variables with Beatline's prefix that are no setting, with their places: most likely misspelt."""
    known = {variable_of(field) for field in fields}
    return sorted(
        (variable, layer.label)
        for layer in layers
        for variable in layer.values
        if variable.startswith(PREFIX)
        and variable not in known
        and variable not in COMPOSE_NAMES
        and not variable.startswith(f"{PREFIX}TEST_")
    )


def _read_file(settings: type[BaseSettings], path: Path, problems: list[str]) -> Layer:
    try:
        source = DotEnvSettingsSource(
            settings, env_file=path, env_file_encoding="utf-8", case_sensitive=True, env_ignore_empty=True
        )
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        problems.append(f"The file {path.name} cannot be read: {reason}. Mend or remove it ({path.parent}).")
        return Layer(path.name, {})
    return Layer(path.name, {k: v for k, v in source.env_vars.items() if v is not None and v.strip()})


def _look_up(layers: Sequence[Layer], variable: str) -> Given | None:
    for layer in layers:
        if variable in layer.values:
            return Given(layer.values[variable].strip(), variable, layer.label)
    return None


def _redis_from_parts(layers: Sequence[Layer], problems: list[str]) -> Given | None:
    given = {variable: _look_up(layers, variable) for variable in REDIS_PARTS}
    host = given["REDIS_HOST"]
    if host is None:
        return None
    texts = {variable: str(part.value) if part else "" for variable, part in given.items()}
    port = _port(texts["REDIS_PORT"] or "6379")
    db = texts["REDIS_DB"] or "0"
    if port is None:
        problems.append("REDIS_PORT: must be a port number from 1 to 65535. Example: REDIS_PORT=6379")
    if not db.isascii() or not db.isdecimal():
        problems.append("REDIS_DB: must be the number of a Redis database. Example: REDIS_DB=0")
    password = texts["REDIS_PASSWORD"]
    user_info = f":{quote(password, safe='')}@" if password else ""
    name = texts["REDIS_HOST"]
    bracketed = f"[{name}]" if ":" in name and not name.startswith("[") else name
    used = ", ".join(variable for variable, part in given.items() if part)
    # What is wrong with the port or database is in `problems` already; the URL must not be blamed once more.
    sound = f"redis://{user_info}{bracketed}:{port or 6379}/{db if db.isdecimal() else 0}"
    return Given(sound, used, host.place)


def _port(text: str) -> int | None:
    # Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 in every pod beside a service named redis.
    try:
        port = urlsplit(text).port if text.startswith("tcp://") else int(text)
    except ValueError:
        return None
    return port if port is not None and 1 <= port <= 65535 else None


def _is_plain(name: str) -> bool:
    return name.strip().replace("-", "").replace("_", "").isalnum()
