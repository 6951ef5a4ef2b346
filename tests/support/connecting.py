"""Connections of a test's own: defined as `beatline connections add` does, to the test's own servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from beatline.definitions import Definition
    from beatline.installation import Installation
    from beatline.settings import Settings

AddConnection = Callable[..., "Definition"]


def add_connection(installation: Installation, name: str, **spec: Any) -> Definition:
    """Define a connection. Raises DefinitionError."""
    from beatline.definitions import specs, store
    from beatline.families import kinds

    checked = specs.check(kinds()["connection"], name, spec)
    with installation.engine.begin() as conn:
        return store.add(conn, "connection", name, checked, lambda: installation.keyring, who="test")


def own_database(settings: Settings) -> dict[str, Any]:
    """The test's own database, as the fields of a connection."""
    parts = urlsplit(settings.database_url)
    return {
        "url": f"postgresql://{parts.hostname}:{parts.port}{parts.path}",
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }
