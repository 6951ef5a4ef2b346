"""A delayed run is sent within a second of its time, and who else waits costs neither time nor memory; by real processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import text

from beatline.engine import delay
from support import run_tasks
from support.ledger import delay_a_crowd
from support.waiting import wait_until

if TYPE_CHECKING:
    from beatline.installation import Installation
    from beatline.settings import Settings
    from support.processes import Spawned, StartProcess, StartWorker
    from support.serving import MakeSettings

CROWD: Final = 100_000
DUE: Final = 300
SPREAD_S: Final = 15.0
LATE_S: Final = 1.0
GROWTH_MB: Final = 4.0
"""Fifty bytes for each that waits would be more."""

_LATE_S: Final = """
    SELECT id, EXTRACT(EPOCH FROM queued_at - eta) AS late_s FROM beatline.runs
    WHERE id = ANY(:ids) AND state = 'succeeded'
"""


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(task_modules=("support.run_tasks",))


def sent_on_time(app: Any, installation: Installation, folder: Path, count: int, spread_s: float) -> list[float]:
    """Send runs whose times are spread so, wait for all, see that each was executed once; how late each was sent."""
    hold = app.tasks["test.hold"]
    sent = [
        str(hold.apply_async((str(folder),), countdown=4.0 + n * spread_s / count, queue="default").id)
        for n in range(count)
    ]

    def late() -> list[float]:
        with installation.engine.connect() as conn:
            found = conn.execute(text(_LATE_S), {"ids": sent}).all()
        return [float(row.late_s) for row in found] if len(found) == count else []

    found = wait_until(late, spread_s + 20.0, every_s=0.5)
    begun = Counter(line.split()[0] for line in (folder / "begun").read_text().splitlines())
    assert [begun[run_id] for run_id in sent] == [1] * count
    return sorted(found)


@pytest.mark.proof
@pytest.mark.timeout(120)
def test_a_hundred_thousand_that_wait_make_none_late_and_take_no_memory(
    app: Any, installation: Installation, worker: StartWorker, recorder: StartProcess, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(delay, "LONGEST_QUEUED_S", 2.0)  # for who sends: the others go by what a message says
    (tmp_path / "go").touch()
    processes: dict[str, Spawned] = {
        "recorder": recorder(),
        "worker": worker(env={"PYTHONPATH": str(Path(run_tasks.__file__).parents[1])}),
    }
    sent_on_time(app, installation, tmp_path, 50, 2.0)  # what they take once is taken
    before = {name: one.resident_mb() for name, one in processes.items()}
    delay_a_crowd(installation, CROWD)
    late = sent_on_time(app, installation, tmp_path, DUE, SPREAD_S)
    after = {name: one.resident_mb() for name, one in processes.items()}

    held = "; ".join(f"{name}: {before[name]:.1f} MB before, {after[name]:.1f} MB after" for name in processes)
    print(f"sent late by {late[DUE // 2]:.3f} s in the middle, {late[-1]:.3f} s at most; {held}")  # noqa: T201  # for -s
    assert late[0] >= 0.0
    assert late[-1] <= LATE_S
    assert all(after[name] - before[name] < GROWTH_MB for name in processes), (before, after)
    with installation.engine.connect() as conn:
        left = conn.execute(text("SELECT count(*) FROM beatline.runs WHERE state = 'delayed'")).scalar()
    assert left == CROWD
    assert "message_unreadable" not in processes["recorder"].output()
