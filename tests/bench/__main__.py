"""`make bench [CASE=name]`: one JSON object a line on stdout, and nothing else there.

Exit code 1 if a case stays under what it must reach.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from support import environment

environment.scrub()

from bench import etl, mail, noop  # after the scrub
from bench.machine import Machine, machine
from bench.record import Record

CASES: Final[dict[str, Callable[[Machine], Record | Sequence[Record]]]] = {
    "noop": noop.run,
    "mail": mail.run,
    "etl": etl.run,
}


def main(names: Sequence[str]) -> int:
    """Run the cases named, or all."""
    unknown = [name for name in names if name not in CASES]
    if unknown:
        sys.stderr.write(f"There is no case {unknown[0]!r}. Cases: {', '.join(CASES)}.\n")
        return 2
    ok = True
    for name in names or tuple(CASES):
        sys.stderr.write(f"{name}: three rounds, some minutes …\n")
        with tempfile.TemporaryDirectory(prefix="beatline-bench-") as folder, machine(Path(folder)) as running:
            found = CASES[name](running)
        for record in [found] if isinstance(found, Record) else found:
            sys.stdout.write(record.to_json() + "\n")
            sys.stdout.flush()
            ok = ok and record.ok
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
