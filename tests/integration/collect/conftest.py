"""What the tests of collect share: a web server, and sources in this test's own installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from support.serving import MakeSettings
from support.web import Web, serve

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation

AddSource = Callable[..., "Definition"]


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on loopback."""
    with serve() as web:
        yield web


@pytest.fixture
def open_installation(make_settings: MakeSettings) -> Installation:
    """This test's installation, which may read from loopback."""
    from beatline.installation import Installation

    return Installation(make_settings(allow_private_addresses=True))


@pytest.fixture
def add_source(open_installation: Installation) -> AddSource:
    """Defines a source as `beatline sources add` does."""
    from beatline.definitions import specs, store
    from beatline.families import kinds

    def add(name: str, **spec: Any) -> Definition:
        checked = specs.check(kinds()["source"], name, spec)
        with open_installation.engine.begin() as conn:
            return store.add(conn, "source", name, checked, lambda: open_installation.keyring, who="test")

    return add
