"""The pools that execute runs, as parameters of a test."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

import pytest

only_with_gevent: Final = pytest.mark.skipif(
    find_spec("gevent") is None,
    reason="gevent has no wheel for macOS with CPython 3.11: build it to use, and to test, that pool there",
)
GEVENT: Final[Any] = pytest.param("gevent", marks=only_with_gevent)
POOLS: Final[list[Any]] = ["prefork", "threads", "solo", GEVENT]
