"""A sender in a thread of its own: writes down what it will ask for, asks, and writes down what came of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Final

from celery.exceptions import CeleryError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from beatline.clock import monotonic_s
from beatline.errors import BeatlineError
from chaos.journal import Journal
from chaos.plan import Item
from chaos.sides import Asked

HANGS_S: Final = 45.0
"""A call that lasts so long is given up."""


def intend(journal: Journal, item: Item) -> None:
    """Write down that an item's runs will be asked for."""
    before: str | None = None
    for key in item.keys:
        due = monotonic_s() + item.countdown_s if item.countdown_s is not None else None
        journal.write("intent", key, how=item.how, strict=item.strict, after=before, due=due)
        before = key


def ask(side: Asked, journal: Journal, item: Item, *, past_proxy: bool = False) -> str:
    """Ask for an item's runs; what was said instead of an answer, or nothing.

    An error does not say whether they were taken: a reply may have been lost.
    """
    intend(journal, item)
    try:
        side.send(item, past_proxy=past_proxy)
        outcome, said = "ok", ""
    except (RedisError, OperationalError, CeleryError, BeatlineError, OSError, RuntimeError) as exc:
        outcome, said = "unknown", f"{type(exc).__name__}: {str(exc)[:100]}"
    for key in item.keys:
        journal.write("outcome", key, outcome=outcome)
    return said


class SenderHangsError(AssertionError):
    """A call that does not come back."""


class Load:
    """Asks for items one after the other, at their pace."""

    def __init__(self, side: Asked, journal: Journal, items: Sequence[Item]) -> None:
        self._side, self._journal, self._items = side, journal, items
        self._thread = threading.Thread(target=self._run, name="chaos-load", daemon=True)
        self._broke: BaseException | None = None
        self._said: list[str] = []
        self._given_up = False
        self._since_s = monotonic_s()
        self.asked = 0
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether everything was asked for."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Wait until everything was asked for. Raises SenderHangsError, or what broke the sender if that was no answer of
        the system's."""
        while self._thread.is_alive() and monotonic_s() - self._since_s < HANGS_S:
            self._thread.join(0.2)
        if self._said:
            sys.stderr.write(f"      {len(self._said)} calls not accepted, the last: {self._said[-1]}\n")
            self._said.clear()
        if self._broke is not None:
            raise self._broke
        if self._thread.is_alive():
            self._given_up = True
            raise SenderHangsError(f"a sender hangs at {self._items[self.asked].keys[0]}")

    def _run(self) -> None:
        try:
            for item in self._items:
                threading.Event().wait(item.gap_s)
                if self._given_up:
                    return
                self._since_s = monotonic_s()
                if said := ask(self._side, self._journal, item):
                    self._said.append(said)
                self.asked += 1
        except BaseException as exc:  # noqa: BLE001  # told to who waits
            self._broke = exc
