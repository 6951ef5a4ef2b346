"""`make chaos [ROW=n] [SEEDS=k] [FRESH=1]`: one JSON object a row on stdout, and nothing else there.

Exit code 1 if a row is not ok. Trials that are done are kept in the data folder until their row was printed, so a run that
was broken off goes on; FRESH=1 begins anew. With one seed a row nothing runs at full length, and the control only where it
must lose something: that is what CI does.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from support import environment

environment.scrub()

from beatline.clock import monotonic_s  # after the scrub
from chaos import crashes, delays, servers, workers
from chaos.lanes import Lanes
from chaos.record import RowRecord, Trial
from chaos.results import Place, Results, code_of
from chaos.row import Row
from chaos.trial import Machine, machine, run

ROWS: Final = {row.number: row for module in (workers, servers, delays, crashes) for row in module.ROWS}
ROOT: Final = Path(__file__).resolve().parents[2]
SEEDS: Final = 5
LANES: Final = 3
"""How many rows are tried at a time."""
LONGEST_FIRST: Final = (8, 12, 14, 7, 3, 4, 5, 17, 6, 2, 11, 13, 1)


def main(argv: Sequence[str]) -> int:
    """Try the rows named, or all."""
    asked = _arguments(argv)
    unknown = [number for number in asked.rows if number not in ROWS]
    if unknown:
        sys.stderr.write(f"There is no row {unknown[0]}. Rows: {', '.join(map(str, sorted(ROWS)))}.\n")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    chosen = asked.rows or LONGEST_FIRST
    results = Results(Path(asked.results).absolute(), _code(), fresh=asked.fresh and not asked.lane)
    ok = True
    try:
        for line, passed in _lane(chosen, asked.seeds, results) if asked.lane else _lanes(chosen, asked, results):
            sys.stdout.write(line)
            sys.stdout.flush()
            ok = ok and passed
    except KeyboardInterrupt:
        sys.stderr.write(f"Broken off; what was tried stands in {asked.results}, and the next run goes on.\n")
        return 130
    return 0 if ok else 1


def _code() -> str:
    return code_of(ROOT / part for part in ("platform", "tests/chaos", "tests/support"))


def _lanes(rows: Sequence[int], asked: argparse.Namespace, results: Results) -> Iterator[tuple[str, bool]]:
    count = min(asked.lanes, len(rows))
    arguments = ("--seeds", str(asked.seeds), "--results", asked.results)
    yield from Lanes(count, arguments).run(rows)
    results.reread().forget(rows)


def _lane(rows: Sequence[int], seeds: int, results: Results) -> Iterator[tuple[str, bool]]:
    with machine() as servers_of_trials:
        for number in rows:
            record = _row(servers_of_trials, ROWS[number], seeds, results)
            yield record.to_json() + "\n", record.ok


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description="Prove what is promised under faults.")
    parser.add_argument("rows", nargs="*", type=int, help="rows of the fault matrix; all, if none is given")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--results", default=str(ROOT / ".beatline" / "chaos.jsonl"))
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--lanes", type=int, default=LANES)
    parser.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _row(servers_of_trials: Machine, row: Row, seeds: int, results: Results) -> RowRecord:
    """Every seed of ours; of the control every seed where it must lose, else the first of several."""
    ours = [_trial(servers_of_trials, row, Place(row.number, seed, "ours", False), results) for seed in _upto(seeds)]
    if row.full and seeds > 1:
        ours.append(_trial(servers_of_trials, row, Place(row.number, 1, "ours", True), results))
    of_control = _upto(seeds if row.must_lose else int(seeds > 1)) if row.control else ()
    control = [
        _trial(servers_of_trials, row, Place(row.number, seed, "control", False), results) for seed in of_control
    ]
    return RowRecord(row.number, row.fault, row.must_lose, ours, control)


def _upto(seeds: int) -> range:
    return range(1, seeds + 1)


def _trial(servers_of_trials: Machine, row: Row, place: Place, results: Results) -> Trial:
    known = results.get(place)
    if known is not None:
        return known
    what = f"row {row.number}, seed {place.seed}, {place.side}{', full length' if place.full else ''}"
    sys.stderr.write(f"{what}: {row.fault} …\n")
    began_s = monotonic_s()
    try:
        verdict = run(servers_of_trials, row, place.seed, ours=place.side == "ours", full=place.full)
        trial = Trial.of(verdict, place.seed, full=place.full)
    except Exception as exc:  # noqa: BLE001  # one trial that breaks must not hide the others
        trial = Trial.broken(place.seed, f"{type(exc).__name__}: {exc}", full=place.full)
        sys.stderr.write(f"      {trial.violations[0]}\n")
    sys.stderr.write(f"      {monotonic_s() - began_s:.0f} s: {trial.accepted} accepted, {trial.lost} lost, "
                     f"{trial.doubled} doubled, {trial.cut_short} cut short\n")  # fmt: skip
    results.keep(place, trial)
    return trial


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
