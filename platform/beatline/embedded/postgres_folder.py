"""PostgreSQL's data folder: made once and whole, and never touched when it is not plainly ours."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from beatline.clock import monotonic_s
from beatline.embedded import folders, service
from beatline.embedded.binaries import PostgresBinaries
from beatline.embedded.identity import uid_and_gid
from beatline.embedded.process import Command, Process
from beatline.errors import ServiceError

SUPERUSER: Final = "beatline"
SERVER_ENV: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
UNFINISHED: Final = "data.unfinished"
NEW_FOLDER_MB: Final = 128
INITDB_S: Final = 120.0
BUILTIN_LOCALES_SINCE: Final = (17,)


def ready(folder: Path, binaries: PostgresBinaries, identity: str | None, *, durable: bool) -> Path:
    """The data folder below `folder`, made if there is none. Raises ServiceError if it is not one to start on."""
    data = folder / "data"
    if not data.exists():
        folders.require_space(folder, NEW_FOLDER_MB)
        _make(folder, data, binaries, identity, durable=durable)
        return data
    folders.require_space(folder)
    _check_version(data, binaries)
    _check_alone(data)
    owner = uid_and_gid(identity)
    if owner is not None and data.stat().st_uid != owner[0]:
        folders.give_to(folder, *owner)
    return data


def password(folder: Path) -> str:
    """The superuser's password, which was made with the data folder. Raises ServiceError if it is gone."""
    try:
        return (folder / "password").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ServiceError(
            f"The file {folder / 'password'} is missing, and with it the password of the database beside it: put it "
            f"back from a backup, or move {folder} away to begin with an empty database."
        ) from None


def _make(folder: Path, data: Path, binaries: PostgresBinaries, identity: str | None, *, durable: bool) -> None:
    draft = folder / UNFINISHED
    if draft.exists():
        shutil.rmtree(draft)  # ours: an initdb was interrupted there
    draft.mkdir(mode=0o700)
    folders.remembered(folder / "password", secrets.token_urlsafe(32))
    owner = uid_and_gid(identity)
    if owner is not None:
        folders.give_to(folder, *owner)
    command = Command(
        argv=[str(binaries.initdb), *_initdb_options(folder, draft, binaries.version, durable=durable)],
        env=SERVER_ENV,
        death_signal="KILL",
        identity=identity,
        cwd=folder,
    )
    process = Process(command)
    try:
        give_up = monotonic_s() + INITDB_S
        while process.exit_code() is None and monotonic_s() < give_up:
            time.sleep(service.POLL_S)
    finally:
        process.kill()
        process.close()
    if process.exit_code() != 0:
        shutil.rmtree(draft, ignore_errors=True)
        raise ServiceError(_why_no_folder(folder, process))
    draft.rename(data)


def _initdb_options(folder: Path, draft: Path, version: tuple[int, ...], *, durable: bool) -> list[str]:
    # The built-in provider is the same on every system; the C library's C.UTF-8 is missing on older macOS.
    if version >= BUILTIN_LOCALES_SINCE:
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    else:
        locale = ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]
    options = ["-D", str(draft), "-U", SUPERUSER, "-E", "UTF8", *locale, "--auth=scram-sha-256"]
    return [*options, f"--pwfile={folder / 'password'}", *([] if durable else ["--no-sync"])]


def _why_no_folder(folder: Path, process: Process) -> str:
    said = process.last_lines()
    if any("No space left on device" in line for line in said):
        return f"The disk that holds {folder} is full: free some space, or set BEATLINE_HOME to a folder elsewhere."
    fault = next((line for line in said if "error:" in line or "FATAL:" in line), service.last_words(process))
    return f"PostgreSQL could not make its data folder in {folder}: {fault}"


def _check_version(data: Path, binaries: PostgresBinaries) -> None:
    try:
        major = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        raise ServiceError(
            f"The folder {data} is not a data folder of PostgreSQL, or a damaged one (its file PG_VERSION is missing); "
            "nothing was changed: put a backup in its place, or move it away to begin with an empty one."
        ) from None
    ours = str(binaries.version[0])
    if major != ours:
        raise ServiceError(
            f"The data in {data} belongs to PostgreSQL {major[:20]} and {binaries.postgres} is version {ours}; nothing was "
            f"changed: set BEATLINE_DATABASE_URL to a server of version {major[:20]}, or dump it there and load it here."
        )


def _check_alone(data: Path) -> None:
    """Refuse a folder on which a server runs that is not ours; forget one that ran before the last reboot.

    Ours would hold the folder's lock. PostgreSQL takes any process that now has the old server's number for it.
    """
    note = data / "postmaster.pid"
    try:
        pid = int(note.read_text(encoding="ascii", errors="replace").split("\n", 1)[0])
    except (OSError, ValueError):
        return
    if not psutil.pid_exists(pid):
        return
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.name().startswith("postgres") and Path(process.cwd()) == data.resolve():
            raise ServiceError(f"Another PostgreSQL (process {pid}) runs on {data}: end it, then try again.")
    note.unlink()
