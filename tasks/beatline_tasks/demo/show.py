"""`beatline demo` on a terminal: how it goes, what was counted, and where things are if it stays."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from typing import Any, Final

from beatline.cli import output
from beatline.cli.up import LOOK_EVERY_S, stop_signals
from beatline.clock import monotonic_s
from beatline.embedded.supervisor import StopRequested
from beatline.settings import Settings
from beatline_tasks.demo.evidence import Ledger, percentile
from beatline_tasks.demo.run import Demo, Progress, own_folder
from beatline_tasks.demo.verdict import Evidence, Verdict, judge

SEED: Final = 2007
"""Gives each kind of trouble a few times, well apart."""
_LINE_EVERY_S: Final = 5.0


def run_and_show(*, keep: bool, grow_s: float, as_json: bool) -> bool:
    """Run the demo and show how it goes; whether nothing was lost and nothing doubled."""
    home = Settings.load(services=False).home
    with own_folder(home) as folder, stop_signals() as stopped:
        demo = Demo(folder, keep=keep, grow_s=grow_s, seed=SEED, should_stop=stopped.is_set)
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
    output.say("Starting Valkey, PostgreSQL, Beat, two workers and the recorder …")
    began_s = monotonic_s()
    demo.start()
    output.say(f"Everything runs after {monotonic_s() - began_s:.1f} s. The feed is {demo.feed_url}")
    line = _ProgressLine()
    demo.work(line.show)
    line.end()
    found, ledger = demo.evidence()
    verdict = judge(found)
    output.emit(summary(demo, found, ledger, verdict), as_json=as_json)
    _tell(verdict)
    return verdict.ok


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
    verdict = judge(demo.evidence()[0])
    output.say(f"Counted again: {verdict.lost} lost, {len(verdict.doubled)} doubled.")
    _tell(verdict)
    return verdict.ok


def _tell(verdict: Verdict) -> None:
    for problem in verdict.problems:
        output.say(problem)


def _show_where(demo: Demo) -> None:
    output.say(f"Flower: {demo.flower_url}")
    output.say(f"Feed:   {demo.feed_url}")
    output.say(f"Look:   BEATLINE_HOME={demo.folder} beatline status   (or runs list, schedules list, sources list)")
    output.say("Ctrl-C stops it and removes its data.")


def summary(demo: Demo, found: Evidence, ledger: Ledger, verdict: Verdict) -> dict[str, Any]:
    """The table at the end, as a row for each thing that was counted."""
    statuses = Counter(str(one.status or "cut off") for one in found.served)
    p50, p99 = (percentile(ledger.lateness_s, share) for share in (0.5, 0.99))
    return {
        "occurrences": _listed(ledger.outcomes),
        "runs": f"{_listed(ledger.states)}; {ledger.busy} were busy",
        "killed": _killed(demo),
        "rows": f"{len(found.stored):,} of {len(found.days):,}",
        "requests": f"{len(found.served)}: {_listed(statuses)}; {verdict.sequences} sequences of pages completed",
        "lateness": "no run started" if p50 is None else f"p50 {p50:.3f} s, p99 {p99:.3f} s, from due time to start",
        "duration": f"{demo.duration_s:.1f} s",
        "lost": verdict.lost,
        "doubled": len(verdict.doubled),
    }


def _killed(demo: Demo) -> str:
    if demo.killed is None:
        return "none"
    attempts = "; ".join(
        f"attempt {number} on {worker} {outcome or 'runs'}" for number, worker, outcome in demo.attempts_of_killed()
    )
    return f"{demo.killed.worker} in run {demo.killed.run}: {attempts}"


def _listed(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items())) or "none"
