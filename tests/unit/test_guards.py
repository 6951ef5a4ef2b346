"""The guards around every test do what they say."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest

from support import environment
from support.network import ForbiddenConnectionError
from support.waiting import wait_until


def test_a_connection_to_another_machine_is_refused() -> None:
    with pytest.raises(ForbiddenConnectionError, match=r"192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_a_foreign_name_is_unknown() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.test", 80)


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_variables_of_the_machine_do_not_reach_tests() -> None:
    assert not environment.foreign_names(os.environ)
    foreign = (
        "BEATLINE_HOME",
        "REDIS_URL",
        "DATABASE_URL",
        "CELERY_BROKER_URL",
        "PGSSLMODE",
        "HTTPS_PROXY",
        "NO_COLOR",
    )
    assert environment.foreign_names(dict.fromkeys(foreign, "x")) == list(foreign)
    assert not environment.foreign_names({"PATH": "x", environment.REDIS_URL: "x", environment.DATABASE_URL: "x"})


def test_a_test_works_in_an_empty_folder() -> None:
    assert not list(Path.cwd().iterdir())


def test_wait_until_returns_the_first_true_answer() -> None:
    answers = itertools.count()
    assert wait_until(lambda: next(answers) == 3 and "three", every_s=0) == "three"
    assert next(answers) == 4


def test_wait_until_takes_a_failed_assertion_as_not_yet() -> None:
    answers = itertools.count()

    def condition() -> bool:
        assert next(answers) == 2
        return True

    assert wait_until(condition, every_s=0)


def test_wait_until_names_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(AssertionError, match="the moon; last seen: 0"):
        wait_until(lambda: 0, timeout_s=0.05, what="the moon")
