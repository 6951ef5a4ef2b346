"""Connecting is bounded by the time there is, however many addresses a name has."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from beatline_tasks.email import wire
from beatline_tasks.email.errors import MailError, Trouble
from beatline_tasks.email.mailbox import Mailbox


def test_all_addresses_of_a_name_have_the_time_of_one_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox.model_validate(
        {"host": "mail.example.com", "user": "u", "password": "p", "timeouts": {"connect_s": 4, "run_s": 10}}
    )
    waits: list[float] = []

    def silent(_address: object, timeout: float) -> socket.socket:
        waits.append(timeout)
        raise TimeoutError("timed out")

    def many(*_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", (f"127.0.0.{number}", 993)) for number in range(1, 21)]

    monkeypatch.setattr(socket, "getaddrinfo", many)
    monkeypatch.setattr(socket, "create_connection", silent)
    monkeypatch.setattr(wire, "monotonic_s", lambda: sum(waits))
    with pytest.raises(MailError, match="did not answer in time") as caught:
        wire.connect(box, allow_private=True)
    said: Any = caught.value
    assert (said.trouble, said.host_down) == (Trouble.NETWORK, True)
    assert waits == [4, 4, 2]
