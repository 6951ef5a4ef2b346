"""A trial as the checker sees it, read from the journal and from the ledger's rows. Pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "unknown", "error"]


@dataclass(frozen=True, slots=True)
class Intent:
    """A run that was to be: what came of asking for it, and when the answer was there.

    `how` is `delay`, accepted by Redis alone, or `submit`, accepted by PostgreSQL. A `step` is called by the run `after`,
    not by the sender. One that has a `due` time must not begin before it, nor much later.
    """

    key: str
    outcome: Outcome
    asked_at: float
    at: float
    how: str = "delay"
    strict: bool = False
    after: str | None = None
    due: float | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """A task's body, executed once: in which process, and how far it came."""

    key: str
    id: str
    attempt: int
    fence: int
    pids: frozenset[int]
    start_at: float
    done_at: float | None = None
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """A write that the effect table took."""

    key: str
    execution: str
    fence: int
    at: float


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to the system, and to which processes: they were killed, or stood still until it was healed."""

    what: str
    at: float
    healed_at: float
    killed: frozenset[int] = frozenset()
    frozen: frozenset[int] = frozenset()
    lost_data: bool = False
    behind: int | None = None
    """How many events had not been drained when Redis lost its data, where that could be counted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands in the ledger in the end: `said` is the reason or error there."""

    key: str
    state: str
    attempt: int
    said: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """All of it. `standings` is None for a system that has no ledger; `residue` names what it left in Redis."""

    intents: Mapping[str, Intent]
    executions: Sequence[Execution]
    effects: Sequence[Effect]
    faults: Sequence[Fault]
    standings: Mapping[str, Standing] | None = None
    residue: Sequence[str] = ()
    waiting: frozenset[str] = frozenset()
    """What a system without a ledger still has in its queues: late, and not lost."""
    refused: int = 0
    """Effects that the table did not take."""
    done: Mapping[str, float] = field(default_factory=dict[str, float])
    """When each key was first done."""


def read(
    lines: Iterable[Mapping[str, Any]],
    effects: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    standings: Mapping[str, Standing] | None = None,
    residue: Sequence[str] = (),
    waiting: frozenset[str] = frozenset(),
) -> History:
    """The history that a journal tells. A call without an answer is *unknown*: its sender died."""
    intents: dict[str, Intent] = {}
    executions: dict[str, Execution] = {}
    faults: dict[str, dict[str, Any]] = {}
    done: dict[str, float] = {}
    refused = 0
    for line in lines:
        key, at = line["key"], line["at"]
        match line["kind"]:
            case "intent":
                intents[key] = Intent(key, "unknown", at, at, line["how"], line["strict"], line["after"], line["due"])
            case "outcome":
                asked = intents[key]
                intents[key] = Intent(
                    key, line["outcome"], asked.asked_at, at, asked.how, asked.strict, asked.after, asked.due
                )
            case "start":
                executions[line["execution"]] = Execution(
                    key, line["execution"], line["attempt"], line["fence"], frozenset(line["pids"]), at
                )
            case "done" | "retry":
                executions[line["execution"]] = _ended(executions[line["execution"]], at, line["kind"] == "retry")
                if line["kind"] == "done":
                    done.setdefault(key, at)
            case "effect":
                refused += not line["taken"]
            case "fault":
                faults[key] = {**line, "healed_at": None}
            case "healed":
                faults[key]["healed_at"] = at
            case other:
                raise ValueError(f"a line of kind {other!r}")
    return History(
        intents=intents,
        executions=list(executions.values()),
        effects=[
            Effect(key, row["execution"], row["fence"], row["at"]) for key, rows in effects.items() for row in rows
        ],
        faults=[_fault(said) for said in faults.values()],
        standings=standings,
        residue=residue,
        waiting=waiting,
        refused=refused,
        done=done,
    )


def _ended(one: Execution, at: float, retried: bool) -> Execution:
    return Execution(one.key, one.id, one.attempt, one.fence, one.pids, one.start_at, at, retried)


def _fault(said: Mapping[str, Any]) -> Fault:
    return Fault(
        what=said["what"],
        at=said["at"],
        healed_at=said["healed_at"] if said["healed_at"] is not None else float("inf"),
        killed=frozenset(said["killed"]),
        frozen=frozenset(said["frozen"]),
        lost_data=said["lost_data"],
        behind=said["behind"],
    )
