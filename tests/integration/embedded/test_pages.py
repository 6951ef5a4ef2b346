"""A process with a page is ready when it answers itself, and moves when its port is taken and nobody fixed it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from beatline.embedded import ports, service
from beatline.embedded.children import Child
from beatline.embedded.pages import Page, Port
from beatline.embedded.process import Process
from beatline.errors import ServiceError
from support.waiting import wait_until


@pytest.fixture
def started() -> Iterator[list[tuple[Page, Process]]]:
    pairs: list[tuple[Page, Process]] = []
    yield pairs
    service.stop(pairs)


def page_on(port: Port, home: Path) -> Page:
    def child(number: int) -> Child:
        served = ("-m", "http.server", str(number), "--bind", "127.0.0.1", "--directory", str(home))
        return Child(name="page", kind="api", what=str(number), arguments=served, env=dict(os.environ), home=home)

    return Page("127.0.0.1", port, "/", child)


def port_of(number: int, *, fixed: bool) -> Port:
    return Port("the page", "BEATLINE_PAGE_PORT", number, fixed)


def test_another_program_that_answers_on_its_port_does_not_make_it_ready(
    tmp_path: Path, started: list[tuple[Page, Process]]
) -> None:
    number = ports.free_port()
    ours, other = (page_on(port_of(number, fixed=False), tmp_path) for _ in range(2))
    slow = ours.spawn()  # both have looked, and both found the port free
    slow.send(signal.SIGSTOP)
    started.append((ours, slow))
    faster = other.spawn()
    started.append((other, faster))
    wait_until(lambda: other.is_ready(faster), what="the other program answers")

    assert not ours.is_ready(slow)
    slow.send(signal.SIGCONT)
    with pytest.raises(ServiceError, match="Address already in use"):
        service.wait_ready(ours, slow)
    assert ours.port.is_lost

    again = ours.spawn()
    started.append((ours, again))
    service.wait_ready(ours, again)
    assert ours.what == str(ours.port.number) != str(number)


def test_a_taken_port_moves_only_the_one_that_nobody_fixed() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        number = taken.getsockname()[1]

        assert port_of(number, fixed=False).choose() != number
        with pytest.raises(ServiceError, match=f"Port {number} for the page is taken .* set BEATLINE_PAGE_PORT"):
            port_of(number, fixed=True).choose()

    assert port_of(number, fixed=True).choose() == number


def test_a_port_once_chosen_is_kept_while_it_is_free() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = port_of(taken.getsockname()[1], fixed=False)
        chosen = port.choose()

        assert port.choose() == chosen
