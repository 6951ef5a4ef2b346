"""`beatline demo` on a terminal: how it goes, what was counted, and where things are if it stays."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from beatline.cli import output
from beatline.cli.up import LOOK_EVERY_S, stop_signals
from beatline.clock import monotonic_s
from beatline.embedded.supervisor import StopRequested
from beatline.settings import Settings
from beatline_tasks.demo.circle_verdict import Circle, CircleVerdict, judge_circle
from beatline_tasks.demo.evidence import Ledger, percentile
from beatline_tasks.demo.run import Demo, Progress, own_folders
from beatline_tasks.demo.verdict import Evidence, Verdict, judge

SEED: Final = 2007
"""Gives each kind of trouble a few times, well apart."""
_LINE_EVERY_S: Final = 5.0


def run_and_show(*, keep: bool, grow_s: float, as_json: bool) -> bool:
    """Run the demo and show how it goes; whether nothing was lost and nothing doubled."""
    home = Settings.load(services=False).home
    with own_folders(home) as (folder, shelf), stop_signals() as stopped:
        demo = Demo(folder, shelf=shelf, keep=keep, grow_s=grow_s, seed=SEED, should_stop=stopped.is_set)
        try:
            ok = _run(demo, as_json=as_json)
            if keep:
                _show_where(demo)
                while not stopped.wait(LOOK_EVERY_S):
                    demo.tick()
                ok = _count_again(demo)
        except StopRequested:
            output.say("Stopped before the feed was drained.")
            ok = False
        finally:
            demo.stop()
    if ok:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        output.say(f"The logs are in {folder / 'logs'}, what the feed served in {folder / 'feed.jsonl'}.")
    return ok


def _run(demo: Demo, *, as_json: bool) -> bool:
    output.say("Starting Valkey, PostgreSQL, Beat, workers, the recorder and mail servers …")
    began_s = monotonic_s()
    demo.start()
    output.say(f"Everything runs after {monotonic_s() - began_s:.1f} s. The feed is {demo.feed_url}")
    line = _ProgressLine()
    demo.work(line.show)
    line.end()
    output.say("The feed is drained. Monthly figures, the report by mail, and back by polling 20 mailboxes …")
    demo.post()
    counted = _counted(demo)
    output.emit(summary(demo, counted), as_json=as_json)
    return _tell(counted)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Everything that was found, and what is to be said of it."""

    found: Evidence
    ledger: Ledger
    verdict: Verdict
    circle: Circle
    circle_verdict: CircleVerdict


def _counted(demo: Demo) -> _Counted:
    found, ledger = demo.evidence()
    circle = demo.circle()
    return _Counted(found, ledger, judge(found), circle, judge_circle(circle))


class _ProgressLine:
    """One line that is written over on a terminal; now and then a line elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._next_s = 0.0

    def show(self, progress: Progress) -> None:
        """Show where the demo is."""
        if not self._live and progress.elapsed_s < self._next_s:
            return
        self._next_s = progress.elapsed_s + _LINE_EVERY_S
        text = (
            f"{progress.elapsed_s:4.0f} s   feed {progress.available:5,} days   "
            f"stored {progress.stored:5,} of {progress.days:,}"
        )
        if progress.killed is not None:
            text += f"   {progress.killed.worker} was killed (process {progress.killed.pid})"
        sys.stderr.write(f"\r{text}\x1b[K" if self._live else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Go on below it."""
        if self._live:
            sys.stderr.write("\n")


def _count_again(demo: Demo) -> bool:
    counted = _counted(demo)
    output.say(f"Counted again: {_lost(counted)} lost, {_doubled(counted)} doubled.")
    return _tell(counted)


def _tell(counted: _Counted) -> bool:
    """Say what is wrong; whether nothing is."""
    problems = (*counted.verdict.problems, *counted.circle_verdict.problems)
    for problem in problems:
        output.say(problem)
    return not problems


def _lost(counted: _Counted) -> int:
    return counted.verdict.lost + counted.circle_verdict.lost


def _doubled(counted: _Counted) -> int:
    return len(counted.verdict.doubled) + counted.circle_verdict.doubled


def _show_where(demo: Demo) -> None:
    output.say(f"Flower: {demo.flower_url}")
    output.say(f"API:    {demo.api_url}docs")
    output.say(f"Feed:   {demo.feed_url}")
    output.say(f"Look:   BEATLINE_HOME={demo.folder} beatline status   (or runs list, schedules list, sources list)")
    output.say("Ctrl-C stops it and removes its data.")


def summary(demo: Demo, counted: _Counted) -> dict[str, Any]:
    """The table at the end, as a row for each thing that was counted."""
    found, ledger, circle = counted.found, counted.ledger, counted.circle
    statuses = Counter(str(one.status or "cut off") for one in found.served)
    p50, p99 = (percentile(ledger.lateness_s, share) for share in (0.5, 0.99))
    return {
        "occurrences": _listed(ledger.outcomes),
        "runs": f"{_listed(ledger.states)}; {ledger.busy} were busy",
        "killed": _killed(demo),
        "rows": f"{len(found.stored):,} of {len(found.days):,}",
        "requests": f"{len(found.served)}: {_listed(statuses)}; "
        f"{counted.verdict.sequences} sequences of pages completed",
        "months": f"{len(circle.months)} of {len(circle.expected)}",
        "deliveries": _listed(circle.deliveries),
        "messages": f"{_listed(circle.messages)}; found by {circle.polls} polls of {len(circle.posted)} mailboxes on "
        f"{demo.mail.imap_server}",
        "lateness": "no run started" if p50 is None else f"p50 {p50:.3f} s, p99 {p99:.3f} s, from due time to start",
        "duration": f"{demo.duration_s:.1f} s, and {demo.post_s:.1f} s for report and mail",
        "lost": _lost(counted),
        "doubled": _doubled(counted),
        **{f"report {number}": str(demo.shelf / name) for number, name in enumerate(circle.on_shelf, 1)},
    }


def _killed(demo: Demo) -> str:
    if demo.killed is None:
        return "none"
    attempts = "; ".join(
        f"attempt {number} on {worker} {outcome or 'runs'}" for number, worker, outcome in demo.attempts_of_killed()
    )
    return f"{demo.killed.worker} in run {demo.killed.run}: {attempts}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items())) or "none"
