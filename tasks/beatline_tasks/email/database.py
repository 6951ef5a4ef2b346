"""The database as polls use it: few transactions at a time, however many threads wait for mail servers.

The engine keeps four connections; what goes beyond them is opened and closed each time, and PostgreSQL has a hundred
for everybody. A transaction takes milliseconds, so fifty threads are served by four.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from beatline.installation import Installation

_TURNS: Final = threading.BoundedSemaphore(4)


@contextmanager
def turn() -> Generator[None]:
    """Wait for a turn to use the database. Not to be nested."""
    with _TURNS:
        yield


@contextmanager
def transaction(installation: Installation) -> Generator[Connection]:
    """A transaction, when it is its turn."""
    with _TURNS, installation.engine.begin() as conn:
        yield conn
