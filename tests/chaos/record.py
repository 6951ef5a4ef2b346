"""What a row comes to: one JSON object, from every trial of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chaos.checker import Verdict


@dataclass(frozen=True, slots=True)
class Trial:
    """A verdict in figures, as it is kept between two starts."""

    seed: int
    full: bool
    accepted: int
    lost: int
    doubled: int
    repeated: int
    undrained: int
    cut_short: int
    refused: int
    recovered_s: float
    slowest_call_s: float
    latest_s: float
    violations: Sequence[str]

    @classmethod
    def of(cls, verdict: Verdict, seed: int, *, full: bool) -> Trial:
        """The figures of a verdict."""
        return cls(
            seed=seed,
            full=full,
            accepted=verdict.accepted,
            lost=len(verdict.lost),
            doubled=len(verdict.doubled),
            repeated=len(verdict.repeated),
            undrained=len(verdict.undrained),
            cut_short=len(verdict.cut_short),
            refused=verdict.refused,
            recovered_s=round(verdict.recovered_s, 2),
            slowest_call_s=round(verdict.slowest_call_s, 2),
            latest_s=round(verdict.latest_s, 2),
            violations=list(verdict.violations),
        )

    @classmethod
    def broken(cls, seed: int, why: str, *, full: bool) -> Trial:
        """A trial that did not get to its end proves nothing."""
        return cls(seed, full, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, [f"not tried: {why}"])

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Trial:
        """The trial that `as_dict` wrote."""
        return cls(**said)

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RowRecord:
    """A row with its trials: it is ok if ours pass all, and the control lost something wherever it must."""

    number: int
    fault: str
    must_lose: bool
    ours: Sequence[Trial]
    control: Sequence[Trial]

    @property
    def ok(self) -> bool:
        """Whether every trial of ours is without a violation, and none of the control's injected nothing."""
        held = bool(self.ours) and not any(one.violations for one in self.ours)
        if not self.must_lose:
            return held
        return held and bool(self.control) and all(one.lost > 0 for one in self.control)

    def to_json(self) -> str:
        """One line."""
        record = {
            "row": self.number,
            "fault": self.fault,
            "seeds": sorted({one.seed for one in self.ours}),
            "accepted": sum(one.accepted for one in self.ours),
            "lost": sum(one.lost for one in self.ours),
            "doubled_effects": sum(one.doubled for one in self.ours),
            "repeated": sum(one.repeated for one in self.ours),
            "undrained": sum(one.undrained for one in self.ours),
            "recovered_s": max((one.recovered_s for one in self.ours), default=None),
            "control_lost": sum(one.lost for one in self.control) if self.control else None,
            "ok": self.ok,
            "details": {
                "cut_short": sum(one.cut_short for one in self.ours),
                "refused_effects": sum(one.refused for one in self.ours),
                "slowest_call_s": max((one.slowest_call_s for one in self.ours), default=None),
                "latest_s": max((one.latest_s for one in self.ours), default=None),
                "full_length": any(one.full for one in self.ours),
                "violations": {_name(one): list(one.violations) for one in self.ours if one.violations},
                "control": {
                    "seeds": sorted({one.seed for one in self.control}),
                    "accepted": sum(one.accepted for one in self.control),
                    "doubled_effects": sum(one.doubled for one in self.control),
                    "must_lose": self.must_lose,
                },
            },
        }
        return json.dumps(record, ensure_ascii=False)


def _name(one: Trial) -> str:
    return f"seed {one.seed}{', full length' if one.full else ''}"
