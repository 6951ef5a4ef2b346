"""Fixtures: real processes against a test's installation. Their logs are shown when the test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from support.processes import Spawn, Spawned, Spawner, StartProcess, StartWorker

if TYPE_CHECKING:
    from beatline.settings import Settings

_SPAWNER: Final = pytest.StashKey[Spawner]()


@pytest.fixture
def spawner(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Spawner]:
    """Starts processes, and ends all of them after the test."""
    folder = tmp_path / "processes"
    folder.mkdir()
    spawner = Spawner(folder)
    request.node.stash[_SPAWNER] = spawner
    yield spawner
    spawner.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the test's processes printed when it failed."""
    report = yield
    spawner = item.stash.get(_SPAWNER, None)
    if report.failed and spawner is not None:
        report.sections.extend((f"log of {name}", text) for name, text in spawner.logs())
    return report


@pytest.fixture
def spawn(settings: Settings, spawner: Spawner) -> Spawn:
    """Run a module as a process against this test's installation."""
    ours = settings

    def start(
        *argv: str,
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> Spawned:
        return spawner.spawn(*argv, settings=settings or ours, env=env, cwd=cwd, name=name, forks=True)

    return start


@pytest.fixture
def worker(spawn: Spawn) -> StartWorker:
    """Starts `celery -A beatline worker` on the queues named."""
    numbers = iter(range(1, 1000))

    def start(
        *queues: str,
        pool: str = "prefork",
        concurrency: int = 1,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        ready: bool = True,
    ) -> Spawned:
        name = f"worker{next(numbers)}"
        # Without mingle, as `beatline worker` starts them: each start would wait a second for all the others.
        options = ("-Q", ",".join(queues or ("default",)), "-P", pool, "-c", str(concurrency), "-n", f"{name}@%h",
                   "--without-mingle")  # fmt: skip
        argv = ("celery", "-A", "beatline", "worker", *options, "--loglevel", "INFO", *arguments)
        spawned = spawn(*argv, settings=settings, env=env, name=name)
        if ready:
            spawned.wait_for(r"\bready\b")
        return spawned

    return start


def _starter(spawn: Spawn, *argv: str, ready: str) -> StartProcess:
    def start(*arguments: str, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> Spawned:
        spawned = spawn(*argv, *arguments, settings=settings, env=env, name=argv[-1])
        spawned.wait_for(ready)
        return spawned

    return start


@pytest.fixture
def beat(spawn: Spawn) -> StartProcess:
    """Starts `celery -A beatline beat`."""
    return _starter(spawn, "celery", "-A", "beatline", "beat", ready=r"(?i)beat: starting")


@pytest.fixture
def recorder(spawn: Spawn) -> StartProcess:
    """Starts `beatline recorder`."""
    return _starter(spawn, "beatline.cli", "recorder", ready="recorder_started")
