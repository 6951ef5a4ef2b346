"""What a test run must not inherit from the machine it runs on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

REDIS_URL: Final = "BEATLINE_TEST_REDIS_URL"
DATABASE_URL: Final = "BEATLINE_TEST_DATABASE_URL"

_KEPT: Final = (REDIS_URL, DATABASE_URL)
# PG* reaches libpq past every URL, and a proxy would carry requests to loopback away.
_FOREIGN: Final = ("BEATLINE_", "REDIS_", "CELERY_", "FLOWER_", "PG", "DATABASE_URL")
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_TERMINAL: Final = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES")


def foreign_names(environ: Mapping[str, str]) -> list[str]:
    """The variables that would change what the tests see."""
    return [
        name
        for name in environ
        if name not in _KEPT and (name.startswith(_FOREIGN) or name.lower() in _PROXIES or name in _TERMINAL)
    ]


def scrub() -> None:
    """Take foreign variables out of this process, before anything of Beatline is imported."""
    for name in foreign_names(os.environ):
        del os.environ[name]
