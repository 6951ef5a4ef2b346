"""What a row of the fault matrix is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.checker import Limits
from chaos.sides import LEASE_S
from chaos.stage import Stage


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, how it is done to a system under load, and the bounds in which the system has to take it.

    With `control`, stock Celery is put through the same; where it `must_lose`, a trial in which it does not lose anything
    injected nothing. `full` is done once beside the seeds, at full length and with a lease as long as it is by default.
    `proxied`: clients reach Redis through a proxy.
    """

    number: int
    fault: str
    act: Callable[[Stage], None]
    limits: Limits
    control: bool = True
    must_lose: bool = False
    full: bool = False
    proxied: bool = False
    lease_s: float = LEASE_S
