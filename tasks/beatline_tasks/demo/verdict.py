"""What was lost and what was doubled. Pure: evidence in, verdict out.

The days come from the file and from the dataset, the sequences from the feed's log. Only which slots were fired, and
which of their runs ended, is the ledger's to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from beatline_tasks.demo.feedlog import Served, completed_by_run
from beatline_tasks.demo.weather import Day

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the demo found when everything had come to rest."""

    days: Sequence[Day]
    stored: Mapping[date, Day]
    served: Sequence[Served]
    fired: Mapping[datetime, str]
    """Slot → run id."""
    known: Collection[str]
    """Ids of all runs in the ledger."""
    ended: Collection[str]
    """Those of them that have an end."""
    killed_run: str | None
    """The run whose worker was killed in its middle."""
    killed_run_attempts: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is missing and what is too much; nothing is, if the platform keeps its promises."""

    lost_days: Sequence[date]
    wrong_days: Sequence[date]
    lost_slots: Sequence[datetime]
    doubled: Sequence[str]
    sequences: int
    problems: Sequence[str]

    @property
    def lost(self) -> int:
        """Days absent from the dataset or other than in the feed, and fired slots without an end."""
        return len(self.lost_days) + len(self.wrong_days) + len(self.lost_slots)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing."""
        return not self.problems


def judge(evidence: Evidence) -> Verdict:
    """Count; every finding is also told in a sentence."""
    stored = evidence.stored
    lost_days = [day.date for day in evidence.days if day.date not in stored]
    wrong_days = [day.date for day in evidence.days if day.date in stored and stored[day.date] != day]
    lost_slots = [slot for slot, run in evidence.fired.items() if run not in evidence.ended]
    completed = completed_by_run(evidence.served)
    doubled = [run for run, sequences in completed.items() if sequences > 1]
    told = [
        _told(lost_days, "{} of the feed's days are not in the dataset"),
        _told(wrong_days, "{} days in the dataset are not as the feed has them"),
        _told(lost_slots, "{} fired slots have a run without an end"),
        _told(doubled, "{} runs completed two sequences of pages"),
        *_told_of_the_run(evidence, completed),
    ]
    problems = [sentence for sentence in told if sentence]
    return Verdict(lost_days, wrong_days, lost_slots, doubled, sum(completed.values()), problems)


def _told_of_the_run(evidence: Evidence, completed: Mapping[str, int]) -> list[str]:
    told: list[str] = []
    if not completed:
        told.append("No run completed a sequence of pages.")
    strangers = set(completed) - set(evidence.known)
    told.append(_told(sorted(strangers), "{} runs read the feed and are in no history"))
    if evidence.killed_run is None:
        told.append("No worker was killed on the way.")
    elif evidence.killed_run not in evidence.ended or evidence.killed_run_attempts < 2:
        told.append(f"The run whose worker was killed, {evidence.killed_run}, did not come back.")
    return told


def _told(found: Sequence[object], sentence: str) -> str:
    if not found:
        return ""
    few = ", ".join(str(one) for one in found[:_SHOWN])
    return f"{sentence.format(len(found))}: {few}{', …' if len(found) > _SHOWN else ''}."
