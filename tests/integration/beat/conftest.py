"""A scheduler in this process, ticked by the test, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from beatline.app import create_app
from beatline.installation import Installation
from beatline.settings import Settings
from beatline_beat.scheduler import BeatlineScheduler
from support.beats import BeatView, MakeScheduler
from support.serving import MakeSettings


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",))


@pytest.fixture
def app(installation: Installation) -> Iterator[Any]:
    app = create_app(installation.settings)
    yield app
    app.close()


@pytest.fixture
def make_scheduler(app: Any) -> Iterator[MakeScheduler]:
    """Schedulers of this test's app; each stands for a Beat of its own."""
    made: list[BeatlineScheduler] = []

    def make(**options: Any) -> BeatlineScheduler:
        made.append(BeatlineScheduler(app, **options))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close()


@pytest.fixture
def scheduler(make_scheduler: MakeScheduler) -> BeatlineScheduler:
    return make_scheduler()


@pytest.fixture
def view(installation: Installation) -> BeatView:
    return BeatView(installation)
