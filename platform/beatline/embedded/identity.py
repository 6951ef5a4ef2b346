"""As whom PostgreSQL runs where we are root, which it refuses: the answer is the tether's `--as`."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Final

from beatline.embedded.process import Command, tethered
from beatline.errors import ServiceError

NAMESPACE: Final = "user-namespace"
PROBE_S: Final = 20.0


def identity_for(folder: Path, program: str) -> str | None:
    """None for an ordinary user; for root the first identity that can run the program. Raises ServiceError if none.

    In a user namespace files stay root's. Where that is forbidden (a chroot, most containers), the folder's owner runs
    it, or nobody, to whom the folder is then given.
    """
    if os.geteuid() != 0:
        return None
    owner = folder.stat()
    if owner.st_uid != 0:
        choices = [f"{owner.st_uid}:{owner.st_gid}"]
    else:
        nobody = pwd.getpwnam("nobody")
        choices = [NAMESPACE] if sys.platform == "linux" else []
        choices.append(f"{nobody.pw_uid}:{nobody.pw_gid}")
    for choice in choices:
        if _runs(program, choice):
            return choice
    raise ServiceError(
        f"PostgreSQL refuses to run as root, and {' and '.join(choices)} cannot run {program} here: start `beatline up` "
        "as an ordinary user, or set BEATLINE_DATABASE_URL to a server of yours."
    )


def uid_and_gid(identity: str | None) -> tuple[int, int] | None:
    """Who must own the files; None where we are an ordinary user, who cannot give them away."""
    if identity is None:
        return None
    if identity == NAMESPACE:
        return os.geteuid(), os.getegid()
    uid, _, gid = identity.partition(":")
    return int(uid), int(gid)


def _runs(program: str, identity: str) -> bool:
    command = Command(argv=[program, "--version"], env={}, death_signal="KILL", identity=identity, watched=False)
    try:
        done = subprocess.run(  # noqa: S603  # our own binary
            tethered(command), env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
