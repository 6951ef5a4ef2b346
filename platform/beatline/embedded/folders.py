"""The data folder: private to its owner, kept out of version control, and clear about what is wrong with it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from beatline.embedded.runfile import write_private
from beatline.errors import ServiceError

MEBIBYTE: Final = 1024 * 1024
NEEDED_MB: Final = 64

_MEND: Final = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "it is on a read-only file system",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not change it",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EEXIST: "it is a file and not a folder",
}


def prepare_home(home: Path) -> Path:
    """The data folder, made if need be, as an absolute path. Raises ServiceError saying what is wrong with it."""
    home = home.absolute()
    with explained(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = home / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# passwords and data\n*\n", encoding="utf-8")
        require_space(home)
    return home


def require_space(folder: Path, needed_mb: int = NEEDED_MB) -> None:
    """Raise ServiceError if the disk of a folder is about to be full."""
    free_mb = shutil.disk_usage(folder).free // MEBIBYTE
    if free_mb < needed_mb:
        raise ServiceError(
            f"The disk that holds {folder} is full: {free_mb} MB are free and {needed_mb} MB are needed. Free some "
            "space, or set BEATLINE_HOME to a folder on another disk."
        )


def remembered(path: Path, text: str) -> str:
    """What a private file holds; the first time, this text is put into it."""
    if not path.exists():
        write_private(path, text)
    return path.read_text(encoding="utf-8").strip()


def give_to(folder: Path, uid: int, gid: int) -> None:
    """Make a user the owner of a folder and of everything in it."""
    for root, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(Path(root, name), uid, gid, follow_symlinks=False)


@contextmanager
def explained(folder: Path) -> Generator[None]:
    """Turn an OSError about the data folder into a ServiceError of one sentence."""
    try:
        yield
    except OSError as exc:
        reason = _MEND.get(exc.errno or 0, exc.strerror or "it cannot be used")
        where = f" ({exc.filename})" if exc.filename and str(exc.filename) != str(folder) else ""
        raise ServiceError(
            f"The data folder {folder} cannot be used{where}: {reason}, or set BEATLINE_HOME to another folder."
        ) from exc
