"""Where children's output goes: to the console behind each one's name, and into files of bounded size."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, TextIO

from beatline.cli.output import visible
from beatline.embedded.process import LineSink

FILE_BYTES: Final = 10 * 1024 * 1024
OLD_FILES: Final = 2
NAME_WIDTH: Final = 10
_COLOURS: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class _LogFile(RotatingFileHandler):
    """A file that drops a line it cannot write: a full disk must not stop the child that prints."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing, since there is nowhere to say it."""


class Console:
    """Shows and keeps lines; safe to use from several threads."""

    def __init__(self, folder: Path, out: TextIO | None) -> None:
        """Keep files in `folder`; show lines on `out`, unless it is None."""
        self._folder = folder
        self._out = out
        self._colourful = out is not None and out.isatty()
        self._writing = threading.Lock()
        self._files: dict[str, _LogFile] = {}

    def sink(self, name: str) -> LineSink:
        """Where the lines of the process of this name go."""
        file = self._file(name)
        prefix = self._prefix(name)

        def take(line: str) -> None:
            file.emit(logging.makeLogRecord({"msg": line}))
            self._show(f"{prefix}{visible(line)}")

        return take

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self.sink("up")(text)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, name: str) -> _LogFile:
        if name not in self._files:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{name}.log"
            self._files[name] = _LogFile(
                path, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8", delay=True, errors="replace"
            )
        return self._files[name]

    def _prefix(self, name: str) -> str:
        label = f"{name:<{NAME_WIDTH}} | "
        if not self._colourful:
            return label
        colour = _COLOURS[list(self._files).index(name) % len(_COLOURS)]
        return f"\x1b[{colour}m{label}\x1b[0m"

    def _show(self, line: str) -> None:
        if self._out is None:
            return
        # Whoever read our output may be gone (`| head`); the platform runs on.
        with suppress(OSError, ValueError), self._writing:
            self._out.write(f"{line}\n")
            self._out.flush()
