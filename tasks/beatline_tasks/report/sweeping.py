"""Ends the issues whose steps died without a word: nobody called their clean-up, or it is dead itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from beatline.clock import monotonic_s, utc_now
from beatline.ledger.database import guarded, sql
from beatline.ledger.states import ENDED
from beatline.logs import get_logger
from beatline_tasks.report import issues
from beatline_tasks.report.cleaning import clean_up
from beatline_tasks.report.issues import Issue

if TYPE_CHECKING:
    from beatline.installation import Installation

QUIET_S: Final = 60
"""An issue that was touched later is left alone: history is a second behind, and steps follow one another."""
_FORGOTTEN: Final = timedelta(days=2)
_PATIENCE: Final = timedelta(days=1)
"""How long the owner's mail server may be out before an issue ends without a notice."""
_AT_ONCE: Final = 200
_LONGEST_S: Final = 240.0
"""A sweep's time: the next one begins after five minutes."""
_RUNS: Final = """
    SELECT r.id, r.state, r.reason, r.error
    FROM {schema}.run_days d JOIN {schema}.runs r ON r.day = d.day AND r.id = d.id WHERE d.id = ANY(:ids)
"""

log = get_logger(__name__)


def sweep(installation: Installation, quiet_s: float = QUIET_S) -> dict[str, Any]:
    """End every issue that nothing works on any more. One that cannot be ended stops none of the others."""
    said = {"open": 0, "ended": 0, "left": 0}
    ends_s = monotonic_s() + _LONGEST_S
    with guarded(installation.settings):
        for found, dead in _pages(installation, quiet_s):
            said["open"] += found
            for issue, why in dead:
                said["ended" if _end(installation, issue, why) else "left"] += 1
                if monotonic_s() > ends_s:
                    return said
    return said


def _pages(installation: Installation, quiet_s: float) -> Iterator[tuple[int, list[tuple[Issue, str]]]]:
    """Page by page, how many issues are open, and those that nothing works on, with the reason."""
    before, last = utc_now() - timedelta(seconds=quiet_s), None
    while True:
        with installation.engine.connect() as conn:
            found = issues.still_open(conn, before, _AT_ONCE, last)
            dead = [(issue, why) for issue in found if (why := _why_over(conn, issue)) is not None]
        yield len(found), dead
        if len(found) < _AT_ONCE:
            return
        last = found[-1]


def _end(installation: Installation, issue: Issue, why: str) -> bool:
    """End an issue; False if that failed, and it is the last one of the next sweep."""
    try:
        if issue.reason is None and why:
            with installation.engine.begin() as conn:
                issues.note(conn, issue, why)
        clean_up(installation, str(issue.id), patient=issue.begun_at > utc_now() - _PATIENCE)
    except Exception:
        log.exception("report_issue_not_swept", report=issue.report, issue=str(issue.id))
        with installation.engine.begin() as conn:
            issues.touch(conn, issue)
        return False
    return True


def _why_over(conn: Connection, issue: Issue) -> str | None:
    """Why nothing works on the issue any more, in words or none; None if a step may still come.

    A run tells of those it queues before it tells of its own end. So if the first run is known to have ended, every
    run that follows is known too, however late history is.
    """
    rows = {row.id: row for row in conn.execute(sql(conn, _RUNS), {"ids": list(issue.run_ids)})}
    first = rows.get(issue.run_id)
    if first is None:
        return "" if issue.changed_at < utc_now() - _FORGOTTEN else None
    if any(row.state not in ENDED for row in rows.values()):
        return None
    bad = [row for run_id in issue.run_ids if (row := rows.get(run_id)) is not None and row.state != "succeeded"]
    return str(bad[-1].reason or bad[-1].error or "") if bad else ""
