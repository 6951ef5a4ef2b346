"""Folders that are hard on servers, and a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    """A folder whose path has a space and more than 150 characters: no socket file would fit."""
    folder = tmp_path / "a folder" / ("x" * 150)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system with two megabytes left."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("mounting a small disk needs root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount")
    (folder / "other").write_bytes(bytes(2 * 1024 * 1024))
    yield folder
    unmount = ["umount", str(folder)]
    subprocess.run(unmount, check=True)
