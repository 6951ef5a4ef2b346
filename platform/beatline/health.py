"""Whether the process beside this one does its duty: `python -m beatline.health worker /tmp/beatline-health`.

The check runs in the process's container, or on its machine. It asks no server and no other process, so it tells the same
of a worker that is busy, of one that is idle, and of one among a hundred. It imports next to nothing, since it is run every
few seconds beside every process; `beatline health` is the same for people, at five times the cost.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beatline.clock import monotonic_s
from beatline.errors import BeatlineError
from beatline.pulse import started

DUTIES: Final = ("beat", "worker", "recorder")
SILENT_S: Final = 30.0
"""A process that has not done its duty for so long is unhealthy: several times what each of them needs."""
ANSWER_S: Final = 5.0
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well, and the same in a sentence."""

    healthy: bool
    said: str


def of_duty(duty: str, folder: Path, silent_s: float = SILENT_S) -> Health:
    """Whether every living process of a duty has done it within `silent_s`; none at all is not healthy.

    Raises BeatlineError for what is no duty.
    """
    if duty not in DUTIES:
        raise BeatlineError(f"{duty!r} has no health to ask for: name one of {', '.join(DUTIES)}, or an http:// URL.")
    signs = [(path, path.name.split(".")) for path in sorted(folder.glob(f"{duty}.*"))]
    alive = [(path, name[1]) for path, name in signs if _lives(name[1], name[2:])]
    if not alive:
        return Health(False, f"No {duty} has come to its duty yet, as far as {folder} says.")
    found = [_of_process(path, pid, duty, silent_s) for path, pid in alive]
    return Health(all(one.healthy for one in found), " ".join(one.said for one in found))


def of_page(url: str) -> Health:
    """Whether a page answers 200 within five seconds. Raises BeatlineError for what is no URL of one."""
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    except (ValueError, HTTPException) as exc:
        raise BeatlineError(f"{url!r} is no URL of a page: {exc}.") from None
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        return Health(answer.status == _OK, f"{url} answers {answer.status} {answer.reason}.")
    except (OSError, HTTPException) as exc:
        return Health(False, f"{url} does not answer: {exc}.")
    finally:
        connection.close()


def main(arguments: Sequence[str]) -> int:
    """The exit code for a DUTY and the folder of its signs, or for a URL."""
    try:
        match list(arguments):
            case [url] if url.startswith("http://"):
                found = of_page(url)
            case [duty, folder]:
                found = of_duty(duty, Path(folder))
            case _:
                raise BeatlineError(f"Ask for {'|'.join(DUTIES)} FOLDER, or for an http:// URL.")
    except BeatlineError as exc:
        found = Health(False, str(exc))
    sys.stdout.write(f"{found.said}\n")
    return 0 if found.healthy else 1


def _of_process(path: Path, pid: str, duty: str, silent_s: float) -> Health:
    age_s = monotonic_s() - path.stat().st_mtime
    state = path.read_text("utf-8")
    # A time ahead of the clock was left by a process before the machine last started.
    if not 0 <= age_s <= silent_s:
        return Health(False, f"The {duty} with pid {pid} ({state}) is silent for {age_s:.0f} s: its log says why.")
    return Health(True, f"The {duty} with pid {pid} ({state}) did its duty {age_s:.1f} s ago.")


def _lives(pid: str, since: Sequence[str]) -> bool:
    """Whether the process with this pid is the one that left a sign, and not a later one with the same pid."""
    if not pid.isdecimal():
        return False
    now = started(pid)
    if now is not None and [now] != list(since):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
