"""A real `beatline api` process on real servers, and a client with a token."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from beatline.api import tokens
from beatline.embedded.ports import free_port
from beatline.installation import Installation
from beatline.settings import Settings
from support.beats import BeatView
from support.processes import Spawn, Spawned
from support.serving import MakeSettings

TESTS = Path(__file__).parents[2]
MakeToken = Callable[..., str]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",), api_port=free_port())


@pytest.fixture
def view(installation: Installation) -> BeatView:
    return BeatView(installation)


@pytest.fixture
def make_token(installation: Installation) -> MakeToken:
    """A new token's text."""

    def make(name: str = "ann", life: timedelta = tokens.LIFE) -> str:
        with installation.engine.begin() as conn:
            return tokens.add(conn, name, who="test", life=life)[1]

    return make


@pytest.fixture
def api(settings: Settings, spawn: Spawn) -> Spawned:
    """The process, which answers."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    spawned = spawn("beatline.cli", "api", name="api", env={"PYTHONPATH": path})
    spawned.wait_for("Started server process")
    return spawned


@pytest.fixture
def anyone(settings: Settings, api: Spawned) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.api_port}", timeout=20) as client:
        yield client


@pytest.fixture
def client(anyone: httpx.Client, make_token: MakeToken) -> httpx.Client:
    """A client with the token of ann, below /admin/celery."""
    anyone.headers["Authorization"] = f"Bearer {make_token()}"
    anyone.base_url = anyone.base_url.join("/admin/celery")
    return anyone
