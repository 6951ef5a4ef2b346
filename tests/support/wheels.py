"""Asks the package index whether every locked package has a wheel for every platform and Python that we name.

Run by `make wheels` after `make lock`, by hand: it needs the index. The answer is kept in wheels.txt with the lock's
hash, and a test refuses an answer about another lock.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from typing import Final

from support.sizes import ROOT

LOCK: Final = ROOT / "requirements" / "beatline.lock"
RECORD: Final = ROOT / "requirements" / "wheels.txt"
HAS_WHEELS: Final = "every package has a wheel"

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS: Final = {
    "Linux x86_64, glibc 2.28": "x86_64-manylinux_2_28",
    "Linux aarch64, glibc 2.28": "aarch64-manylinux_2_28",
    "macOS 13 x86_64": "x86_64-apple-darwin",
    "macOS 13 arm64": "aarch64-apple-darwin",
}


def heading() -> str:
    """The first line of the record: which lock the answers are about."""
    return f"beatline.lock sha256 {hashlib.sha256(LOCK.read_bytes()).hexdigest()}"


def targets() -> dict[str, tuple[str, str]]:
    """Every platform and Python by the name that the record gives it."""
    return {
        f"{name}, CPython {python}": (platform, python) for name, platform in PLATFORMS.items() for python in PYTHONS
    }


def ask(python: str, platform: str) -> str:
    """HAS_WHEELS, or what the resolver said instead. Nothing is downloaded but metadata, and nothing is installed."""
    with tempfile.TemporaryDirectory() as nowhere:
        options = ("--dry-run", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", nowhere)
        target = ("--python-version", python, "--python-platform", platform)
        done = subprocess.run(
            [sys.executable, "-m", "uv", "--no-config", "pip", "install", *options, *target, "--requirement", LOCK],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode == 0:
        return HAS_WHEELS
    return " ".join(done.stderr.split()) or f"exit code {done.returncode}"


def main() -> int:
    """Write the record; exit code 1 if a wheel is missing."""
    answers = {name: ask(python, platform) for name, (platform, python) in targets().items()}
    lines = [heading(), *(f"{name}: {answer}" for name, answer in answers.items())]
    RECORD.write_text("\n".join(lines) + "\n", "utf-8")
    sys.stdout.write(RECORD.read_text("utf-8"))
    return int(any(answer != HAS_WHEELS for answer in answers.values()))


if __name__ == "__main__":
    sys.exit(main())
