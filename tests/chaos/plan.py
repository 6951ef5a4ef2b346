"""What is asked for, and when faults come: all of it follows from a seed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Shape = Literal["single", "chain", "retry"]
SHAPES: tuple[Shape, ...] = ("single", "single", "single", "chain", "retry")
LATER_S: Final = (1.0, 6.0)
"""Delays of both kinds: those that a worker holds, and those that wait in PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Item:
    """One call of a sender: its runs' keys (a chain has several), and how long to wait before the next call."""

    keys: tuple[str, ...]
    shape: Shape
    takes_s: float
    gap_s: float
    how: Literal["delay", "submit"] = "delay"
    strict: bool = False
    countdown_s: float | None = None
    retry_s: float = 0.0
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """What a load is made of: how many calls over what time, how long their runs take, and how they are accepted."""

    calls: int = 60
    over_s: float = 8.0
    takes_s: tuple[float, float] = (0.02, 0.4)
    shapes: Sequence[Shape] = SHAPES
    kept: bool = False
    """Whether half of the calls go through `submit` to a strict task: those Redis may not lose."""
    later_s: tuple[float, float] | None = None
    """After how long every eighth of the calls wants its run; None: all of them want it at once."""


def load(rng: Random, name: str, mix: Mix) -> list[Item]:
    """The calls of a load, in order; keys begin with `name`."""
    items: list[Item] = []
    for number in range(mix.calls):
        shape = rng.choice(list(mix.shapes))
        kept = mix.kept and number % 2 == 1
        shape = "single" if kept and shape == "chain" else shape
        keys = tuple(f"{name}-{number}{part}" for part in (("a", "b", "c") if shape == "chain" else ("",)))
        gap_s = rng.uniform(0.5, 1.5) * mix.over_s / mix.calls
        takes_s = round(rng.uniform(*mix.takes_s), 3)
        item = Item(keys, shape, takes_s, gap_s, "submit" if kept else "delay", kept)
        if mix.later_s is not None and number % 8 == 2:
            item = Item(keys[:1], "single", takes_s, gap_s, countdown_s=round(rng.uniform(*mix.later_s), 2))
        items.append(item)
    return items


def delayed(rng: Random, name: str, calls: int, countdown_s: tuple[float, float], retry_s: float = 0.0) -> list[Item]:
    """Calls for later, all made at once; with `retry_s` each asks for one retry after so long, too."""
    shape: Shape = "retry" if retry_s else "single"
    return [
        Item((f"{name}-{n}",), shape, 0.01, 0.0, countdown_s=round(rng.uniform(*countdown_s), 2), retry_s=retry_s)
        for n in range(calls)
    ]


def pauses(rng: Random, count: int, between_s: tuple[float, float]) -> list[float]:
    """How long to wait before each of so many faults."""
    return [rng.uniform(*between_s) for _ in range(count)]
