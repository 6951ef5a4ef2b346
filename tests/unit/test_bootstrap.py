"""The set-up of the two commands: which Python it takes, and which .venv it keeps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from support.sizes import ROOT

SHELL: Final = shutil.which("sh") or "/bin/sh"


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """deploy/bootstrap.py, as bootstrap.sh runs it when nobody asked for a Python by name."""
    path = ROOT / "deploy" / "bootstrap.py"
    spec = spec_from_file_location("bootstrap", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(path), module.ANY_PYTHON])
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with bootstrap.sh, and a bootstrap.py that says which Python runs it, and how."""
    folder = tmp_path / "a clone"
    (folder / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "bootstrap.sh", folder / "deploy")
    (folder / "deploy" / "bootstrap.py").write_text("import sys; print(sys.executable, *sys.argv[1:], sep='\\n')")
    return folder


def _run(clone: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHELL, "deploy/bootstrap.sh"], cwd=clone, env=env, capture_output=True, text=True, check=False
    )


def _python(folder: Path, name: str, script: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{SHELL}\n{script}\n")
    (folder / name).chmod(0o755)
    return str(folder)


def test_the_first_python_that_fits_is_taken(clone: Path, tmp_path: Path) -> None:
    path = _python(tmp_path / "bin", "python3", "exit 1")
    _python(tmp_path / "bin", "python3.12", f'exec "{sys.executable}" "$@"')
    done = _run(clone, PATH=path)
    assert done.stdout.splitlines() == [sys.executable, "--any-python"]


def test_a_python_that_was_asked_for_is_taken_as_it_is(clone: Path) -> None:
    assert _run(clone, PATH="/nowhere", PYTHON=sys.executable).stdout.splitlines() == [sys.executable]


def test_a_python_that_was_asked_for_and_does_not_fit_is_named(clone: Path) -> None:
    done = _run(clone, PATH="/nowhere", PYTHON="python2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "PYTHON=python2 is not a CPython from 3.11 to 3.14: set PYTHON to one that is, or leave it unset.\n"
    )


def test_without_any_python_one_sentence_says_so(clone: Path) -> None:
    done = _run(clone, PATH="/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("No CPython from 3.11 to 3.14 is on PATH")
    assert len(done.stderr.splitlines()) == 1


def test_an_environment_is_kept_only_where_it_was_made_and_whole(bootstrap: ModuleType) -> None:
    here, other = str(ROOT), "/another/folder"
    assert bootstrap.fits([here, "/usr/bin/python3.13 3.13.0", "hash"])
    assert not bootstrap.fits([other, bootstrap.IDENTITY, "hash"])
    assert not bootstrap.fits([bootstrap.INSTALLING])
    assert bootstrap.fits([])  # made by hand


def test_another_python_that_was_asked_for_makes_a_new_environment(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])
    assert bootstrap.fits([str(ROOT), bootstrap.IDENTITY, "hash"])
    assert not bootstrap.fits([str(ROOT), "/usr/bin/python3.13 3.13.0", "hash"])


def test_what_would_lead_pip_astray_does_not_reach_it(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "kept")
    assert "PIP_TARGET" not in bootstrap.environment()
    assert bootstrap.environment()["PIP_INDEX_URL"] == "kept"
