"""What the tests of maintenance share: tasks called in this process, and connections to the test's own database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from support.apps import open_app
from support.connecting import add_connection, own_database
from support.serving import MakeSettings

if TYPE_CHECKING:
    from beatline.installation import Installation

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def warehouse(make_settings: MakeSettings) -> Iterator[Installation]:
    """An installation with the connections `warehouse`, which may write, and `reader`, which may not."""
    from beatline.installation import Installation

    listed = "warehouse:public.tokens,reader:public.tokens,warehouse:public.by_day,warehouse:public.Od:d"
    ours = Installation(make_settings(allow_private_addresses=True, cleanup_tables=listed))
    add_connection(ours, "warehouse", read_only=False, **own_database(ours.settings))
    add_connection(ours, "reader", **own_database(ours.settings))
    yield ours
    ours.redis.close()


@pytest.fixture
def call(warehouse: Installation) -> Iterator[Call]:
    """Calls a task of the family as a worker would, in this process."""
    with open_app(warehouse.settings) as app:

        def run(name: str, /, **kwargs: Any) -> dict[str, Any]:
            result: dict[str, Any] = app.tasks[f"maintenance.{name}"](**kwargs)
            return result

        yield run
