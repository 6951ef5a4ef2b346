"""A source that is a file: CSV or JSON lines, read row by row, left alone while it has not changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import IO, Any

from beatline_tasks.collect.errors import SourceError
from beatline_tasks.collect.pages import Page, Validators
from beatline_tasks.collect.parse import parse_lines
from beatline_tasks.collect.source import Source


@dataclass(slots=True)
class FilePages:
    """A file as one page; unchanged means the same file, size and time of change as when it was last read whole."""

    source: Source
    known: Validators
    validators: Validators = field(default_factory=dict[str, Any])

    def __iter__(self) -> Generator[Page]:
        path = self.source.path or ""
        with _open(path) as file:
            found = os.fstat(file.fileno())
            now = {"file": f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"}
            if self.source.etag and self.known == now:
                self.validators = self.known
                yield Page(path, iter(()), not_modified=True)
                return
            yield Page(path, parse_lines(self.source, file, path))
            self.validators = now if self.source.etag else {}


def _open(path: str) -> IO[bytes]:
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SourceError(f"There is no file {path} on this worker: correct path, or mount its folder.") from None
    except OSError as exc:
        raise SourceError(f"{path} cannot be read: {exc.strerror}.") from None
    except ValueError as exc:
        raise SourceError(f"The path {path!r} cannot be read: {exc}.") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise SourceError(f"{path} is no regular file.")
    return os.fdopen(handle, "rb")
