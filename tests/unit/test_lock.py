"""The lock files: what they pin, and that it can be installed on every platform that the README names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support import wheels
from support.sizes import ROOT

FOLDER: Final = ROOT / "requirements"
LOCKS: Final = tuple(sorted(FOLDER.glob("*.lock")))
_HASHED: Final = re.compile(
    r"(?P<requirement>[^\\#]+==[^\\#]+) \\\n(?P<hashes>(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+)"
)


def _without_comments(lock: Path) -> str:
    lines = lock.read_text("utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.lstrip().startswith("#"))


def _locked(lock: Path) -> dict[str, set[Version]]:
    """Every name in the lock, with its versions: more than one where platforms need different ones."""
    found: dict[str, set[Version]] = {}
    for match in _HASHED.finditer(_without_comments(lock)):
        requirement = Requirement(match["requirement"])
        (pin,) = requirement.specifier
        found.setdefault(canonicalize_name(requirement.name), set()).add(Version(pin.version))
    return found


def _groups() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for: "" is what everyone needs, the others are the extras and the group dev."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        whole = tomllib.load(stream)
    texts = {
        "": whole["project"]["dependencies"],
        **whole["project"]["optional-dependencies"],
        "dev": whole["dependency-groups"]["dev"],
    }
    return {name: [Requirement(text) for text in group] for name, group in texts.items()}


def _declared() -> list[Requirement]:
    return [requirement for group in _groups().values() for requirement in group]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_line_is_a_pin_with_hashes(lock: Path) -> None:
    text = _without_comments(lock)
    assert _HASHED.sub("", text) == ""
    assert text


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_file_names_a_host_or_a_path(path: Path) -> None:
    """Whoever installs decides where packages come from."""
    assert not re.search(r"(?i)://|@ |index-url|find-links|trusted-host|\.(org|com|io)\b", path.read_text("utf-8"))


@pytest.mark.parametrize("requirement", _declared(), ids=lambda requirement: requirement.name)
def test_what_pyproject_asks_for_is_locked_at_a_version_it_allows(requirement: Requirement) -> None:
    versions = _locked(FOLDER / "beatline.lock").get(canonicalize_name(requirement.name), set())
    assert any(requirement.specifier.contains(version, prereleases=True) for version in versions)


def test_what_the_redis_transport_imports_is_locked() -> None:
    """kombu's Redis transport imports `packaging`, which only the extra celery[redis] brings."""
    locked = _locked(FOLDER / "beatline.lock")
    assert {"packaging", "redis", "kombu"} <= locked.keys()


@pytest.mark.parametrize("lock", ["production.lock", "build.lock"])
def test_the_image_gets_the_versions_that_were_tested(lock: str) -> None:
    tested = _locked(FOLDER / "beatline.lock")
    assert all(versions <= tested[name] for name, versions in _locked(FOLDER / lock).items())


def test_the_image_gets_what_runs_in_production_and_nothing_else() -> None:
    groups = {group: {canonicalize_name(one.name) for one in needed} for group, needed in _groups().items()}
    locked = _locked(FOLDER / "production.lock").keys()
    needed = groups[""] | groups["pdf"] | groups["duckdb"]
    assert needed <= locked
    assert not locked & (groups["embedded"] | groups["demo"] | groups["dev"] - needed)


def test_every_locked_package_has_a_wheel_on_every_platform() -> None:
    """The record was made by `make wheels`, which asks the index; it must be about this very lock."""
    heading, *answers = wheels.RECORD.read_text("utf-8").splitlines()
    assert heading == wheels.heading(), "the lock has changed: run `make wheels`"
    assert answers == [f"{target}: {wheels.HAS_WHEELS}" for target in wheels.targets()]
