"""Which port a server of ours gets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from beatline.embedded import ports
from beatline.errors import ServiceError


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind((ports.LOOPBACK, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_is_kept_for_next_time(tmp_path: Path) -> None:
    memory = tmp_path / "port"

    first = ports.remembered(memory, "Valkey", "BEATLINE_X", None)

    assert ports.remembered(memory, "Valkey", "BEATLINE_X", None) == first


def test_another_port_is_taken_when_the_remembered_one_is_not_free(tmp_path: Path, taken_port: int) -> None:
    memory = tmp_path / "port"
    memory.write_text(f"{taken_port}\n")

    port = ports.remembered(memory, "Valkey", "BEATLINE_X", None)

    assert port != taken_port
    assert ports.is_free(port)


@pytest.mark.parametrize("text", ["", "x", "0", "70000", "-1"])
def test_a_damaged_memory_is_forgotten(tmp_path: Path, text: str) -> None:
    memory = tmp_path / "port"
    memory.write_text(text)

    assert ports.is_free(ports.remembered(memory, "Valkey", "BEATLINE_X", None))


def test_a_configured_port_that_is_taken_is_refused_by_its_variable(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(ServiceError, match=rf"^Port {taken_port} for Valkey is taken .* set BEATLINE_X "):
        ports.remembered(tmp_path / "port", "Valkey", "BEATLINE_X", taken_port)


def test_a_configured_port_goes_before_the_remembered_one(tmp_path: Path) -> None:
    memory = tmp_path / "port"
    ports.remembered(memory, "Valkey", "BEATLINE_X", None)
    wanted = ports.free_port()

    assert ports.remembered(memory, "Valkey", "BEATLINE_X", wanted) == wanted
