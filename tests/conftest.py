"""The guards around every test. The fixtures stand in support/serving.py, running.py and mailing.py."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from support import connections, environment, network

environment.scrub()  # before the plugins below import anything of Beatline

pytest_plugins = ["support.serving", "support.running", "support.mailing"]

hypothesis_settings.register_profile("beatline", deadline=None, database=None)
hypothesis_settings.load_profile("beatline")


def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are processors, for tests wait longer than they compute."""
    return min(8, (os.cpu_count() or 1) + 2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """What takes a process for a minute goes first, whatever the order of the others: no process is to end with it."""
    yield
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Refuse connections from this process to other machines."""
    with pytest.MonkeyPatch.context() as patch:
        network.guard(patch)
        yield


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, so that a developer's .env and .beatline are out of reach."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def connections_known() -> Iterator[None]:
    """Know every pool of connections to Redis that a test makes."""
    with pytest.MonkeyPatch.context() as patch:
        connections.track(patch)
        yield


@pytest.fixture(autouse=True)
def connections_closed() -> Iterator[None]:
    """Close the connections to Redis that the test leaves open."""
    yield
    connections.close_all()
