"""Logs: readable on a terminal, one JSON object a line elsewhere; each line of a run names that run; no secrets.

Beatline's loggers are ordinary ones of the standard library that take fields (`log.info("claimed", fence=7)`), so they
also work where an application has set up logging by itself. `configure` sends everything, Celery's and the libraries'
lines included, through the same processors.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import Token
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from structlog.contextvars import bind_contextvars, merge_contextvars, reset_contextvars, unbind_contextvars
from structlog.stdlib import BoundLogger, PositionalArgumentsFormatter, ProcessorFormatter, filter_by_level

from beatline.native import log_from_native_threads, native_lock
from beatline.secrets import mask

if TYPE_CHECKING:
    from beatline.settings import Settings

RUN_FIELDS: Final = ("run_id", "task", "schedule", "queue", "attempt")
"""What every line of a run carries."""

RunTokens = Mapping[str, Token[Any]]

_FIELDS: Final = "beatline_fields"
"""The attribute of a log record that carries a line's fields."""


class _Handler(logging.StreamHandler[Any]):
    """Marks the handler that `configure` replaces when it is called again.

    Native threads log on gevent too (see native): a green one that waits for them at a green lock may wait for ever.
    """

    def createLock(self) -> None:
        super().createLock()
        self.lock = cast("Any", native_lock())


class _FileHandler(WatchedFileHandler, _Handler):
    """Opens its file again when logrotate has moved it."""


def get_logger(name: str) -> BoundLogger:
    """A logger that takes fields: `log.warning("lease lost", fence=7)`. The event is static text."""
    logger: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[filter_by_level, PositionalArgumentsFormatter(), _to_record],
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger


def bind_run(*, run_id: str, task: str, queue: str, attempt: int, schedule: str | None = None) -> RunTokens:
    """From here on every line of this thread names the run. The tokens bring back what was bound before."""
    return bind_contextvars(run_id=run_id, task=task, schedule=schedule, queue=queue, attempt=attempt)


def clear_run(tokens: RunTokens | None = None) -> None:
    """End what bind_run began: back to the run around it if its tokens are given, else to none."""
    if tokens is None:
        unbind_contextvars(*RUN_FIELDS)
    else:
        reset_contextvars(**tokens)


def configure(settings: Settings, *, level: int | str | None = None, file: str | None = None) -> None:
    """Send all logging of this process to stderr or `file`, in the format of the settings. Safe to call again."""
    log_from_native_threads()
    handler = _FileHandler(file, encoding="utf-8", delay=True) if file else _Handler(sys.stderr)
    readable = settings.log_format == "console" or (settings.log_format == "auto" and not file and sys.stderr.isatty())
    handler.setFormatter(_formatter(readable=readable, colours=readable and not file and sys.stderr.isatty()))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
        if isinstance(old, _FileHandler):
            old.close()
    root.addHandler(handler)
    root.setLevel(level or settings.log_level)


def _formatter(*, readable: bool, colours: bool) -> logging.Formatter:
    renderer: Any
    if readable:
        # Never with local variables: they hold URLs and secrets.
        renderer = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
    else:
        renderer = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    return ProcessorFormatter(
        foreign_pre_chain=[_from_record, merge_contextvars, _add_time_local if readable else _add_time_utc],
        processors=[
            ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _mask,
            renderer,
        ],
    )


def _to_record(_: Any, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """Fields travel beside the text, which holds them too: for a handler that is not ours."""
    text = str(event.pop("event", ""))
    passed = {name: event.pop(name) for name in ("exc_info", "stack_info") if name in event}
    fields = {"event": text, **event}
    shown = cast("Mapping[str, object]", mask(dict(event)))
    line = " ".join([text, *(f"{name}={value!r}" for name, value in shown.items())])
    return (line,), {**passed, "extra": {_FIELDS: fields}}


def _from_record(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = cast("logging.LogRecord", event["_record"])
    event["level"] = record.levelname.lower()
    event["logger"] = record.name
    event.update(getattr(record, _FIELDS, {}))
    return event


def _add_time_utc(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    created = datetime.fromtimestamp(cast("logging.LogRecord", event["_record"]).created, UTC)
    event["timestamp"] = created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _add_time_local(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    created = datetime.fromtimestamp(cast("logging.LogRecord", event["_record"]).created, UTC).astimezone()
    event["timestamp"] = f"{created:%H:%M:%S}.{created.microsecond // 1000:03}"
    return event


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return cast("dict[str, Any]", mask(event))
