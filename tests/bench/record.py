"""What a measurement comes to: one JSON object, with every round in it and nothing discarded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One system in one round. `details` is what explains the figure: CPU, commands, what else was seen."""

    value: float
    details: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Round:
    """Ours and the baseline, measured one after the other. `others_cpu` is the share of the machine that others took."""

    ours: Sample
    baseline: Sample
    others_cpu: float

    @property
    def ratio(self) -> float:
        """How many times the baseline we reach."""
        return self.ours.value / self.baseline.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A case with its rounds: the ratio must be at least `must`, or with `at_most` no more than that.

    `limits` names details of ours that may not be above a figure in any round, such as memory.
    """

    case: str
    unit: str
    must: float
    command: str
    guarantees: Mapping[str, str]
    rounds: Sequence[Round]
    at_most: bool = False
    limits: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def ok(self) -> bool:
        """Whether the median ratio is what it must be, and no limit was passed."""
        ratio = median(one.ratio for one in self.rounds)
        within = all(one.ours.details[name] <= most for name, most in self.limits.items() for one in self.rounds)
        return within and (ratio <= self.must if self.at_most else ratio >= self.must)

    def to_json(self) -> str:
        """One line: the medians, then the minimum, median and maximum of each, then what explains them."""
        ours = [one.ours.value for one in self.rounds]
        baseline = [one.baseline.value for one in self.rounds]
        ratios = [one.ratio for one in self.rounds]
        record = {
            "case": self.case,
            "ours": _rounded(median(ours)),
            "baseline": _rounded(median(baseline)),
            "ratio": _rounded(median(ratios)),
            "must": self.must,
            **({"at_most": True} if self.at_most else {}),
            **({"limits": dict(self.limits)} if self.limits else {}),
            "ok": self.ok,
            "unit": self.unit,
            "command": self.command,
            "spread": {"ours": _spread(ours), "baseline": _spread(baseline), "ratio": _spread(ratios)},
            "others_cpu": [_rounded(one.others_cpu) for one in self.rounds],
            "details": {
                "ours": _medians([one.ours.details for one in self.rounds]),
                "baseline": _medians([one.baseline.details for one in self.rounds]),
            },
            "guarantees": self.guarantees,
        }
        return json.dumps(record, ensure_ascii=False)


def _spread(values: Sequence[float]) -> list[float]:
    return [_rounded(value) for value in (min(values), median(values), max(values))]


def _medians(details: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {name: _rounded(median(one[name] for one in details)) for name in details[0]}


def _rounded(value: float) -> float:
    """Three significant digits: a shared machine gives no more."""
    return float(f"{value:.3g}")
