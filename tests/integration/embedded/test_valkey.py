"""Our own Valkey: private, durable, and clear about what stops it."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis

from beatline.embedded import ports
from beatline.embedded.valkey import Valkey
from beatline.errors import ServiceError

Make = Callable[..., Valkey]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes Valkeys, and stops them."""
    made: list[Valkey] = []

    def valkey(folder: Path, port: int | None = None) -> Valkey:
        made.append(Valkey(folder, port))
        return made[-1]

    yield valkey
    for one in made:
        one.stop()


def client(url: str) -> Any:
    return cast("Any", redis.Redis).from_url(url, decode_responses=True)


def test_it_is_private_durable_and_never_evicts(make: Make, long_folder: Path) -> None:
    valkey = make(long_folder)
    valkey.start()

    with client(valkey.url) as connection:
        for name, value in (
            ("appendonly", "yes"),
            ("save", ""),
            ("maxmemory-policy", "noeviction"),
            ("bind", "127.0.0.1"),
        ):
            assert connection.config_get(name) == {name: value}
    with client(valkey.what) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    for name in ("password", "valkey.conf"):
        assert stat.S_IMODE((long_folder / name).stat().st_mode) == 0o600


def test_no_password_is_on_its_command_line(make: Make, tmp_path: Path) -> None:
    valkey = make(tmp_path)
    valkey.start()

    assert valkey.pid is not None
    password = (tmp_path / "password").read_text().strip()
    assert password not in " ".join(psutil.Process(valkey.pid).cmdline())
    assert password not in repr(valkey)


def test_data_and_address_survive_a_stop_and_a_kill(make: Make, tmp_path: Path) -> None:
    first = make(tmp_path)
    first.start()
    with client(first.url) as connection:
        connection.set("kept", "yes")
    first.stop()
    second = make(tmp_path)
    second.start()
    with client(second.url) as connection:
        assert connection.get("kept") == "yes"
        connection.set("kept", "still")
        connection.execute_command("WAITAOF", 1, 0, 5000)  # on the disk: a kill may cost the last second
    assert second.pid is not None
    os.kill(second.pid, signal.SIGKILL)

    third = make(tmp_path)
    third.start()

    assert third.url == second.url == first.url
    with client(third.url) as connection:
        assert connection.get("kept") == "still"


def test_a_taken_port_is_one_sentence(make: Make, tmp_path: Path) -> None:
    first = make(tmp_path / "one", ports.free_port())
    first.start()
    port = int(first.what.split(":")[2].split("/")[0])

    with pytest.raises(ServiceError, match=rf"^Port {port} for Valkey is taken.*BEATLINE_EMBEDDED_REDIS_PORT"):
        make(tmp_path / "two", port).start()


def test_two_on_one_folder_would_ruin_it_and_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beatline.embedded.valkey.PREDECESSOR_S", 0.2)
    first = make(tmp_path)
    first.start()

    with pytest.raises(ServiceError, match="Another Valkey still runs"):
        make(tmp_path).start()
    with client(first.url) as connection:
        assert connection.ping()


def test_damaged_data_is_one_sentence_and_stays_as_it_is(make: Make, tmp_path: Path) -> None:
    valkey = make(tmp_path)
    valkey.start()
    valkey.stop()
    (log,) = tmp_path.glob("data/appendonlydir/*.incr.aof")
    log.write_bytes(b"\0garbage" * 100)

    with pytest.raises(
        ServiceError, match=r"cannot read its data in .* nothing was changed.*Bad file format"
    ) as caught:
        valkey.start()

    assert "\n" not in str(caught.value)
    assert log.read_bytes() == b"\0garbage" * 100
    assert ports.is_free(int(valkey.what.split(":")[2].split("/")[0]))


def test_a_full_disk_is_one_sentence(make: Make, full_disk: Path) -> None:
    with pytest.raises(ServiceError, match=r"^The disk that holds .* is full"):
        make(full_disk / "valkey").start()


def test_it_waits_for_its_predecessor_to_be_gone(make: Make, tmp_path: Path) -> None:
    first = make(tmp_path)
    first.start()
    assert first.pid is not None
    with client(first.url) as connection:
        connection.set("kept", "yes")
    os.kill(first.pid, signal.SIGTERM)

    second = make(tmp_path)
    second.start()

    with client(second.url) as connection:
        assert connection.get("kept") == "yes"
