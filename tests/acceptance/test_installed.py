"""The platform from an installed wheel, in a folder that has nothing to do with the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from beatline.settings import Settings
from support.processes import Spawner, variables_of
from support.serving import MakeSettings
from support.sizes import ROOT
from support.waiting import wait_until

TASKS = """
from celery import shared_task

@shared_task(name="mine.double")
def double(number):
    return number * 2
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel installed: ours is installed editable, theirs is not."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    installed = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    # What the wheel depends on comes from our own environment; its line stands after the wheel's folder in sys.path,
    # and a .pth file in it (the editable Beatline) is not read.
    (installed / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)], check=True)
    return python


@pytest.fixture
def settings(make_settings: MakeSettings, empty_database: str) -> Settings:
    """An installation without tables, with a task module of the user's own."""
    return make_settings(database_url=empty_database, task_modules=("mine",))


@pytest.fixture
def env(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """What a user's shell has: PATH, the settings, and the folder of the user's tasks."""
    (tmp_path / "mine.py").write_text(TASKS)
    return {"PATH": os.environ["PATH"], **variables_of(settings)}


def _run(python: Path, env: dict[str, str], *argv: str) -> str:
    done = subprocess.run([str(python), *argv], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_the_wheel_that_is_imported(python: Path, env: dict[str, str]) -> None:
    script = "import beatline, beatline_beat, beatline_tasks\nfor m in (beatline, beatline_beat, beatline_tasks): print(m.__file__)"
    files = _run(python, env, "-c", script).splitlines()
    assert len(files) == 3
    assert all(file.startswith(str(python.parent.parent)) for file in files)


def test_a_task_of_ones_own_runs_and_stands_in_the_history(python: Path, env: dict[str, str], spawner: Spawner) -> None:
    """Migrations, Lua scripts and entry points are all in the wheel."""
    _run(python, env, "-m", "beatline.cli", "db", "upgrade")
    for command in (
        ("celery", "-A", "beatline", "worker", "-Q", "default", "-P", "solo"),
        ("beatline.cli", "recorder"),
    ):
        spawner.spawn(*command, env=env, cwd=Path.cwd(), python=str(python))

    send = "from beatline.celery import app\nfrom mine import double\nprint(double.delay(21).get(timeout=30))"
    assert _run(python, env, "-c", send) == "42\n"

    def history() -> bool:
        runs = json.loads(_run(python, env, "-m", "beatline.cli", "runs", "list", "--json"))
        return [(run["task"], run["state"]) for run in runs] == [("mine.double", "succeeded")]

    assert wait_until(history, 20, every_s=0.3)
