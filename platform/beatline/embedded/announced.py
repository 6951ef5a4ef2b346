"""The Celery app of `beatline up`'s children: Beatline's own, whose processes say when they are ready.

A worker is ready when it has connected and consumes; a Beat when it begins to look for its turn to lead. Both then make
a file in `<home>/ready`. Log lines would say the same, but not at every log level; `inspect ping` takes a second of CPU.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from celery import signals
from celery.exceptions import SecurityWarning

from beatline.celery import app
from beatline.embedded.readiness import announce
from beatline.engine.worker import settings_of

BEAT = "beat"

# Root is warned of pickled messages, which Beatline does not accept from anybody.
warnings.filterwarnings("ignore", category=SecurityWarning)

# The supervisor gives tasks their time to end before it asks for a cold shutdown, which then need not wait once more.
app.conf.worker_soft_shutdown_timeout = 0.0


def _home() -> Path:
    return settings_of(app).home


def _worker_is_ready(sender: Any, **_: Any) -> None:
    announce(_home(), str(sender.hostname).partition("@")[0])


def _beat_is_ready(**_: Any) -> None:
    announce(_home(), BEAT)


signals.worker_ready.connect(_worker_is_ready, weak=False, dispatch_uid="beatline.announced.worker")
signals.beat_init.connect(_beat_is_ready, weak=False, dispatch_uid="beatline.announced.beat")

__all__ = ["app"]
