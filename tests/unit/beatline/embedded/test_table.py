"""The table of what runs where."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from beatline.embedded import table
from beatline.embedded.runfile import ProcessEntry


def entry(pid: int | None, started: float | None, state: str = "ready") -> ProcessEntry:
    return ProcessEntry(name="a", kind="worker", what="default", pid=pid, started=started, state=state)  # type: ignore[arg-type]  # a Literal


def test_a_living_process_has_its_state_and_its_childrens_memory() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        me = psutil.Process()
        (row,) = table.rows([entry(me.pid, me.create_time())])
    finally:
        child.communicate()

    assert row.state == "ready"
    assert row.memory_mb is not None
    assert row.memory_mb > 1
    assert table.all_well([row])


def test_a_process_that_ended_is_down() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    (row,) = table.rows([entry(child.pid, 1.0)])

    assert row.state == "down"
    assert not table.all_well([row])


def test_another_process_under_the_same_number_is_not_taken_for_it() -> None:
    (row,) = table.rows([entry(os.getpid(), psutil.Process().create_time() - 1000)])

    assert row.state == "down"


def test_a_given_server_is_well_and_one_that_restarts_is_not() -> None:
    rows = table.rows([entry(None, None, "given"), entry(None, None, "restarting")])

    assert [row.state for row in rows] == ["given", "restarting"]
    assert table.all_well(rows[:1])
    assert not table.all_well(rows)
    assert table.total_mb(rows) == 0
