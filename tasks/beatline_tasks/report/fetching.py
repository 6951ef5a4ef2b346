"""The first step: each query's rows into an artifact, all of them named in the transaction that moves the issue on."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from beatline.artifacts import ArtifactStore, Stored
from beatline.failpoints import reach
from beatline_tasks.report import issues
from beatline_tasks.report.query import asked
from beatline_tasks.report.rows import write_rows
from beatline_tasks.report.steps import Work

FAMILY: Final = "report"
_KEEP_S: Final = 7 * 86_400.0
"""Rows that no clean-up took away, because the installation was off, go after a week."""


def fetch(work: Work) -> dict[str, Any]:
    """Ask every query. Running twice gives the rows of one of the two."""
    store = ArtifactStore.of(work.installation)
    found: dict[str, tuple[Stored, int, bool]] = {}
    with TemporaryDirectory(prefix="beatline-report-") as folder:
        for name in work.report.queries:
            found[name] = _fetch_one(work, name, store, Path(folder) / "rows")
    reach("report.fetched")
    empty = not any(count for _, count, _ in found.values())
    to: issues.State = "skipped" if empty and work.report.no_rows == "skip" else "fetched"
    with work.installation.engine.begin() as conn:
        data = {
            name: {
                "artifact": str(
                    store.record(
                        conn,
                        stored,
                        name=f"{work.issue.report}-{name}.jsonl.gz",
                        content_type="application/gzip",
                        family=FAMILY,
                        run_id=work.run.run_id,
                        keep_s=_KEEP_S,
                    )
                ),
                "rows": count,
                "cut": cut,
            }
            for name, (stored, count, cut) in found.items()
        }
        if not issues.move(conn, work.issue, to, data=data, reason="No rows: skipped." if to == "skipped" else None):
            conn.rollback()
    reach("report.fetch_committed")
    return {"rows": {name: count for name, (_, count, _) in found.items()}, "state": to}


def _fetch_one(work: Work, name: str, store: ArtifactStore, path: Path) -> tuple[Stored, int, bool]:
    with path.open("wb") as file, asked(work.installation, work.report, name, work.issue.period) as answer:
        count = write_rows(file, answer.columns, answer.rows)
    # Outside of the query: a slow store must hold no transaction open.
    return store.write(path), count, answer.cut
