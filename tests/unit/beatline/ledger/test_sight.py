"""No lease counts as expired until the same Redis has answered for a full lease without a break."""

from __future__ import annotations

import pytest

from beatline.ledger import reconcile
from beatline.ledger.epochs import Server
from beatline.ledger.reconcile import Sight

_SERVER = Server("a" * 40, "b" * 40, 1, 0)
_OTHER = Server("c" * 40, "b" * 40, 1, 0)
_LATER = Server("a" * 40, "b" * 40, 2, 0)


class _Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(reconcile, "monotonic_s", clock)
    return clock


def _watch(sight: Sight, clock: _Clock, seconds: int, server: Server = _SERVER) -> bool:
    steady = False
    for _ in range(seconds):
        clock.now_s += 1
        steady = sight.steady(server)
    return steady


def test_it_takes_a_full_lease(clock: _Clock) -> None:
    sight = Sight(20.0)
    assert not _watch(sight, clock, 20)
    assert _watch(sight, clock, 1)


@pytest.mark.parametrize("other", [_OTHER, _LATER], ids=["restarted", "emptied"])
def test_another_server_or_epoch_begins_it_anew(clock: _Clock, other: Server) -> None:
    sight = Sight(20.0)
    assert _watch(sight, clock, 21)
    assert not _watch(sight, clock, 20, other)
    assert _watch(sight, clock, 1, other)


def test_a_lost_connection_begins_it_anew(clock: _Clock) -> None:
    sight = Sight(20.0)
    assert _watch(sight, clock, 21)
    sight.lose()
    assert not _watch(sight, clock, 20)


def test_a_process_that_stood_still_begins_it_anew(clock: _Clock) -> None:
    sight = Sight(20.0)
    assert _watch(sight, clock, 21)
    clock.now_s += 11
    assert not sight.steady(_SERVER)
    assert not _watch(sight, clock, 19)
    assert _watch(sight, clock, 1)
