"""The invariants, checked on a history: what was lost, invented, doubled, stuck, late, silent, or left behind. Pure.

I1 no loss · I2 no invention · I3 effect once · I4 bounded · I5 timeliness · I6 no silent error · I7 no residue.

Three things are no violations, and are counted apart. *Cut short*: a process was killed, or stood still for longer than a
lease, between its effect and the end that nobody could be told of; at-least-once execution does it again, and the effect's
own key is the guard. *Repeated*: the end was told to a Redis that lost its data before it was drained. *Undrained*: the
run was accepted by Redis alone, which lost it before it was drained. The last two are bounded by the lag of the drain, and
are violations for what PostgreSQL had accepted (`submit`) or ended (`strict`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from chaos.history import Effect, Execution, Fault, History

ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "dead"})
FAILED: Final = frozenset({"failed", "dead"})
DEADLY: Final = 3
"""So many attempts that cost their process make a run dead; no fault has a run end so before."""
END_S: Final = 1.0
"""How long after the last line of its body the end of a run may be on its way."""
COMMIT_S: Final = 5.0
"""So much longer that of a strict task, whose worker first imports what speaks to PostgreSQL, connects and commits."""
UNCOMMITTED: Final = "strict.checked"
"""The step at which a strict end is on its way there."""
EARLY_S: Final = 0.05
"""How far before its time a delayed run may begin: timers and clocks are not exact."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a row: how often a run may begin, how soon it must go on after a fault, how late a delay may be, how
    long a call of a sender may take, how far the drain may be behind, and how many writes have to be refused to those
    that come back, for the row to have tried it."""

    begun: int = 3
    recover_s: float = 30.0
    late_s: float | None = None
    call_s: float | None = None
    lag_s: float = 2.0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial came to. `violations` are sentences, each begins with its invariant; none: it passed."""

    accepted: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    repeated: tuple[str, ...]
    undrained: tuple[str, ...]
    cut_short: tuple[str, ...]
    recovered_s: float
    slowest_call_s: float
    latest_s: float
    refused: int
    violations: tuple[str, ...]


def check(history: History, limits: Limits) -> Verdict:
    """Judge a history that is over: every fault healed, and all the time given that there is to give."""
    missing = _missing(history)
    undrained = tuple(key for key in missing if _is_undrained(history, key, limits.lag_s))
    lost = tuple(key for key in missing if key not in undrained)
    again = _again(history, limits.lag_s)
    recovered_s = recovery_s(history)
    answered = [one for one in history.intents.values() if one.after is None]
    slowest_s = max((one.at - one.asked_at for one in answered), default=0.0)
    latest_s = max(_lateness(history), default=0.0)
    violations = [
        *_named("I1 lost", lost),
        *_named("I1 ended in the ledger, and never done", _never_done(history)),
        *_named("I2 invented", _invented(history)),
        *_named("I3 doubled", again["doubled"]),
        *_named("I3 done without its effect", _without_effect(history)),
        *_named("I4 began too often", _too_often(history, limits.begun)),
        *_named("I4 stuck", _stuck(history)),
        *_named("I6 ended badly without a word", _silent(history)),
        *_named("I7 left in Redis", tuple(history.residue)),
        *_bounds(history, undrained, again["repeated"], limits.lag_s),
        *_named("I5 began before its time", _early(history)),
    ]
    if recovered_s > limits.recover_s:
        violations.append(f"I5 went on {recovered_s:.1f} s after the fault, {limits.recover_s:g} s are the bound")
    if history.refused < limits.refused:
        violations.append(
            f"I3 {history.refused} writes of those that came back were refused, {limits.refused} had to be"
        )
    if limits.call_s is not None and slowest_s > limits.call_s:
        violations.append(f"I5 a sender waited for {slowest_s:.1f} s, {limits.call_s:g} s are the bound")
    if limits.late_s is not None and latest_s > limits.late_s:
        violations.append(f"I5 a delay was {latest_s:.1f} s late, {limits.late_s:g} s are the bound")
    return Verdict(
        accepted=sum(one.outcome == "ok" for one in history.intents.values()),
        lost=lost,
        doubled=again["doubled"],
        repeated=again["repeated"],
        undrained=undrained,
        cut_short=again["cut_short"],
        recovered_s=recovered_s,
        slowest_call_s=slowest_s,
        latest_s=latest_s,
        refused=history.refused,
        violations=tuple(violations),
    )


def recovery_s(history: History) -> float:
    """The longest time from the healing of a fault until what it had interrupted went on, or anything did."""
    longest = 0.0
    steps = sorted([one.start_at for one in history.executions] + list(history.done.values()))
    for fault in history.faults:
        went_on = [_went_on(history, key, fault) for key in _interrupted(history, fault)]
        went_on.append(next((at for at in steps if at > fault.healed_at), fault.healed_at))
        longest = max(longest, max(went_on) - fault.healed_at)
    return longest


def _interrupted(history: History, fault: Fault) -> set[str]:
    """What had begun when the fault came, and had neither ended nor asked to be tried again."""
    return {
        one.key
        for one in history.executions
        if one.start_at < fault.at
        and (one.done_at is None or one.done_at > fault.at)
        and history.done.get(one.key, fault.at) >= fault.at
    }


def _went_on(history: History, key: str, fault: Fault) -> float:
    steps = [one.start_at for one in history.executions if one.key == key and one.start_at > fault.at]
    if history.done.get(key, 0.0) > fault.at:
        steps.append(history.done[key])
    return min(steps, default=fault.healed_at)  # never: then it is lost, which I1 says


def _missing(history: History) -> tuple[str, ...]:
    """What was accepted, and neither done nor dead for having cost its process too often; dead otherwise is given up."""
    found: list[str] = []
    waiting = set(history.waiting)
    for key, intent in history.intents.items():
        standing = (history.standings or {}).get(key)
        buried = standing is not None and standing.state == "dead" and standing.attempt >= DEADLY
        # A step that waits for one that waits is not lost either.
        waits = key in history.waiting or intent.after in waiting
        if waits:
            waiting.add(key)
        if intent.outcome == "ok" and key not in history.done and not buried and not waits:
            found.append(key)
    return tuple(found)


def _is_undrained(history: History, key: str, lag_s: float) -> bool:
    """Whether Redis alone had it, when it lost its data. A step is accepted when the run before it ends."""
    intent = history.intents[key]
    if history.standings is None or key in history.standings or intent.how != "delay":
        return False
    if intent.after is not None:
        before = history.done.get(intent.after)
        if before is None:
            return _is_undrained(history, intent.after, lag_s)
        return any(_just_before(fault, before, lag_s) for fault in history.faults if fault.lost_data)
    return any(_just_before(fault, intent.at, lag_s) for fault in history.faults if fault.lost_data)


def _just_before(fault: Fault, at: float, lag_s: float) -> bool:
    return fault.at - lag_s <= at <= fault.healed_at + END_S


def _again(history: History, lag_s: float) -> Mapping[Literal["doubled", "repeated", "cut_short"], tuple[str, ...]]:
    """The keys whose effect was taken more than once, by what is to be said of it."""
    executions = {one.id: one for one in history.executions}
    found: dict[Literal["doubled", "repeated", "cut_short"], tuple[str, ...]] = {
        "doubled": (), "repeated": (), "cut_short": (),
    }  # fmt: skip
    by_key: dict[str, list[Effect]] = {}
    for effect in history.effects:
        by_key.setdefault(effect.key, []).append(effect)
    for key, effects in by_key.items():
        kinds = {_kind(history, executions.get(first.execution), first, lag_s)
                 for first, _ in pairwise(sorted(effects, key=lambda one: one.at))}  # fmt: skip
        for kind in ("doubled", "repeated", "cut_short"):
            if kind in kinds:
                found[kind] = (*found[kind], key)
                break
    return found


def _kind(
    history: History, execution: Execution | None, effect: Effect, lag_s: float
) -> Literal["doubled", "repeated", "cut_short"]:
    """Why an effect was not the last of its key."""
    if execution is None:
        return "doubled"
    until = float("inf") if execution.done_at is None else execution.done_at + END_S
    for fault in history.faults:
        struck = bool((fault.killed | fault.frozen) & execution.pids)
        waited = COMMIT_S if fault.what.endswith(UNCOMMITTED) else 0.0
        if struck and effect.at <= fault.healed_at and fault.at <= until + waited:
            return "cut_short"
    strict = effect.key in history.intents and history.intents[effect.key].strict
    for fault in history.faults:
        if fault.lost_data and not strict and _just_before(fault, execution.done_at or effect.at, lag_s):
            return "repeated"
    return "doubled"


def _invented(history: History) -> tuple[str, ...]:
    return tuple(sorted({one.key for one in history.executions} - set(history.intents)))


def _never_done(history: History) -> tuple[str, ...]:
    """What the ledger calls succeeded although no body came to its end: then the ledger lies."""
    standings = history.standings or {}
    return tuple(key for key, one in standings.items() if one.state == "succeeded" and key not in history.done)


def _without_effect(history: History) -> tuple[str, ...]:
    """A holder whose write was refused, and no later one: the fence went back."""
    have = {effect.key for effect in history.effects}
    return tuple(key for key in history.done if key not in have)


def _too_often(history: History, begun: int) -> tuple[str, ...]:
    """Attempts that neither came to their end nor asked for the next one: so often a run may cost its process."""
    times = Counter(one.key for one in history.executions if one.done_at is None)
    return tuple(key for key, count in times.items() if count > begun)


def _stuck(history: History) -> tuple[str, ...]:
    """What the ledger does not call ended, and what it does not know although it was done."""
    if history.standings is None:
        return tuple(sorted(history.waiting))
    waits = [key for key, one in history.standings.items() if one.state not in ENDED]
    return tuple(waits + [key for key in history.done if key not in history.standings])


def _silent(history: History) -> tuple[str, ...]:
    standings = history.standings or {}
    return tuple(key for key, one in standings.items() if one.state in FAILED and not one.said)


def _lateness(history: History) -> list[float]:
    first: dict[str, float] = {}
    for one in history.executions:
        first[one.key] = min(one.start_at, first.get(one.key, one.start_at))
    return [first[key] - one.due for key, one in history.intents.items() if one.due is not None and key in first]


def _early(history: History) -> tuple[str, ...]:
    due = {key: one.due for key, one in history.intents.items() if one.due is not None}
    return tuple(
        sorted({one.key for one in history.executions if one.key in due and one.start_at < due[one.key] - EARLY_S})
    )


def _accepted_at(history: History, key: str) -> float:
    """When a call was answered, or the run before a step ended."""
    intent = history.intents[key]
    return intent.at if intent.after is None else history.done.get(intent.after, intent.at)


def _bounds(history: History, undrained: tuple[str, ...], repeated: tuple[str, ...], lag_s: float) -> list[str]:
    """More than had not been drained cannot be lost with Redis, or done once more, in any of the faults where that was
    counted; where it was not, `_just_before` is the only bound."""
    # A step whose predecessor was lost went with it: that was one event.
    lost = {key: _accepted_at(history, key) for key in undrained if history.intents[key].after not in undrained}
    ends = {one.key: one.done_at for one in sorted(history.executions, key=lambda one: -one.start_at) if one.done_at}
    again = {key: ends[key] for key in repeated if key in ends}
    found: list[str] = []
    for fault in history.faults:
        for what, times in (("undrained", lost), ("repeated", again)):
            keys = tuple(key for key, at in times.items() if _just_before(fault, at, lag_s))
            if fault.lost_data and fault.behind is not None and len(keys) > fault.behind:
                found.append(f"I1 {len(keys)} {what}, and {fault.behind} events had not been drained: {_some(keys)}")
    return found


def _named(what: str, keys: tuple[str, ...]) -> list[str]:
    return [f"{what}: {_some(keys)}"] if keys else []


def _some(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(keys[:5]) + more
