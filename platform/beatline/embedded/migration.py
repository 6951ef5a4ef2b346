"""Brings the tables up to date in a process of its own: the supervisor stays small, it imports no Alembic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

from beatline.clock import monotonic_s
from beatline.embedded import service
from beatline.embedded.process import Command, LineSink, Process
from beatline.errors import ServiceError

LONGEST_S: Final = 600.0


def migrate(env: Mapping[str, str], on_line: LineSink, pause: Callable[[], None]) -> None:
    """Run `beatline db upgrade`. Raises ServiceError with what it said if it fails."""
    command = Command(argv=[sys.executable, "-m", "beatline.cli", "db", "upgrade"], env=env, death_signal="KILL")
    process = Process(command, on_line)
    give_up = monotonic_s() + LONGEST_S
    try:
        while process.exit_code() is None:
            if monotonic_s() > give_up:
                raise ServiceError(f"The tables could not be brought up to date within {LONGEST_S:.0f} s.")
            pause()
    finally:
        process.kill()
        process.close()
    if process.exit_code() != 0:
        said = service.last_words(process) or f"exit code {process.exit_code()}"
        raise ServiceError(f"The tables could not be brought up to date: {said}")
