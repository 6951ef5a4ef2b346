"""Makes .venv hold exactly what the lock file names, and the package itself, editable.

Run by deploy/bootstrap.sh. A second run compares a fingerprint and ends at once. The system's Python is only read.
A run that was interrupted leaves no fingerprint, so the next one starts over.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".venv"
TOOLS: Final = ROOT / ".tools"
VENV_PYTHON: Final = VENV / "bin" / "python"
STAMP: Final = VENV / ".beatline-setup"
PYTHON: Final = os.path.realpath(sys.executable)  # not .venv's own, which may be about to go
LOCK: Final = ROOT / "requirements" / "beatline.lock"
VIRTUALENV_LOCK: Final = ROOT / "requirements" / "virtualenv.lock"

IDENTITY: Final = f"{PYTHON} {sys.version.split()[0]}"
ANY_PYTHON: Final = "--any-python"
"""Said by bootstrap.sh if nobody asked for this Python by name: whichever .venv already has will do."""

INSTALLING: Final = "installing"
PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
# Each of these would send an install somewhere else than into the folder that is named.
MISLEADING: Final = (
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT",
    "PIP_REQUIRE_VIRTUALENV", "PIP_PYTHON",
)  # fmt: skip


class SetUpError(Exception):
    """What could not be set up, and what to do about it."""


def main() -> int:
    """Exit code 0 once .venv is ready."""
    try:
        TOOLS.mkdir(exist_ok=True)
        with (TOOLS / "setup.lock").open("w") as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            set_up()
    except (SetUpError, OSError) as exc:
        say(f"Set-up failed: {exc}")
        return 1
    return 0


def set_up() -> None:
    """Do what is missing; nothing if .venv is what the last complete run left and what is wanted now."""
    found = STAMP.read_text("utf-8").splitlines() if STAMP.exists() else []
    content = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    usable = works(VENV_PYTHON) and fits(found)
    if usable and found[2:] == [content]:
        return
    made_by = found[1] if usable and found else IDENTITY
    if not usable:
        shutil.rmtree(VENV, ignore_errors=True)
        say(f"Making .venv with Python {sys.version.split()[0]} …")
        make_venv()
    STAMP.write_text(INSTALLING, "utf-8")
    say("Installing the locked packages: about a minute the first time …")
    pip = (str(VENV_PYTHON), *PIP, "install")
    run([*pip, "--require-hashes", "--no-deps", "--requirement", str(LOCK)], "The packages could not be installed")
    run([*pip, "--no-deps", "--no-build-isolation", "--editable", "."], "Beatline could not be installed into .venv")
    STAMP.write_text(f"{ROOT}\n{made_by}\n{content}\n", "utf-8")


def fits(found: Sequence[str]) -> bool:
    """Whether a working .venv may be kept.

    Not one that a run left half made, nor one of another folder (it holds absolute paths), nor one of another Python
    than the one that was asked for by name. One without our stamp was made by hand: packages are installed into it.
    """
    if not found:
        return True
    return found[0] == str(ROOT) and (ANY_PYTHON in sys.argv or found[1] == IDENTITY)


def works(python: Path) -> bool:
    """Whether this interpreter runs, knows pip, and is one that we support."""
    check = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))"
    try:
        return (
            subprocess.run([python, "-c", check], check=False, capture_output=True, env=environment()).returncode == 0
        )
    except OSError:
        return False


def make_venv() -> None:
    """Make .venv with venv, or with virtualenv where a distribution keeps ensurepip in a package of its own."""
    attempt = subprocess.run(
        [PYTHON, "-m", "venv", str(VENV)], check=False, capture_output=True, text=True, env=environment()
    )
    if attempt.returncode == 0 and works(VENV_PYTHON):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    say("This Python cannot make an environment by itself (no ensurepip): getting virtualenv into .tools …")
    target = TOOLS / "virtualenv"
    shutil.rmtree(target, ignore_errors=True)
    install = ("install", "--target", str(target), "--require-hashes", "--no-deps", "--requirement")
    run(
        [PYTHON, *PIP, *install, str(VIRTUALENV_LOCK)],
        "Neither venv nor pip works with this Python: install your distribution's python3-venv, or python3-pip. venv "
        f"said: {(attempt.stdout + attempt.stderr).strip()}",
    )
    command = [PYTHON, "-m", "virtualenv", "--quiet", "--no-periodic-update", str(VENV)]
    run(command, "virtualenv could not make .venv", {"PYTHONPATH": str(target)})


def environment() -> dict[str, str]:
    """This process's environment without what would mislead Python or pip."""
    return {name: value for name, value in os.environ.items() if name not in MISLEADING}


def run(command: Sequence[str], failure: str, extra: dict[str, str] | None = None) -> None:
    """Run a command with its output on stderr. Raises SetUpError with `failure`."""
    done = subprocess.run(command, check=False, cwd=ROOT, stdout=sys.stderr, env=environment() | (extra or {}))
    if done.returncode != 0:
        raise SetUpError(
            f"{failure} (exit code {done.returncode}; the lines above say why). Mend it and run make again."
        )


def say(text: str) -> None:
    """Tell the person who waits. Never on stdout: that belongs to the target that runs next."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
